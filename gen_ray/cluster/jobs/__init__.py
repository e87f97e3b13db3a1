"""Ray jobs, and the queue of a shared cluster."""
