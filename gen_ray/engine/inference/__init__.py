"""Trained models: artifacts, sampling, the batcher, imputation, scores, latent codes, instances."""
