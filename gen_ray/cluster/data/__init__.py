"""Prepared data sets as Ray Data, and blocks as batches of a training worker."""
