"""Models on Ray Serve: a deployment each, one ingress before them, and what starts, scales and watches them."""
