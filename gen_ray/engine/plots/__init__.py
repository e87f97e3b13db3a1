"""Plots as uint8 arrays."""
