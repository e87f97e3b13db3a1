"""Evaluation as Ray tasks."""
