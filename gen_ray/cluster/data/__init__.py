"""Prepared data sets as Ray Data, and their blocks as batches of a training worker."""
