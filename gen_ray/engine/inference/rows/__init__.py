"""Imputation, sampling and scoring of files of rows, one block of rows at a time."""
