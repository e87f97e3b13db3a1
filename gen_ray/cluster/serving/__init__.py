"""Models on Ray Serve: one deployment per model, an ingress, autoscaling, metrics, and the server command."""
