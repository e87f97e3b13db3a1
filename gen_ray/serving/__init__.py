"""Trained models behind an API: what a request is, who answers it, over HTTP and as a page. Knows no Ray."""
