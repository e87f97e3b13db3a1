"""Runs and registered models in MLflow, and their comparison."""
