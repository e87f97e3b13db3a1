"""Evaluation of a trained model: bits per dimension, sample quality, quality against cost."""
