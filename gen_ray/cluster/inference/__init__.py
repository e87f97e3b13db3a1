"""Imputation, sampling and scoring of files by all machines of a cluster."""
