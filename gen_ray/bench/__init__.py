"""Benchmarks that need neither Ray nor MLflow."""
