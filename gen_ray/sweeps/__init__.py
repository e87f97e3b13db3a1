"""Sweeps without the cluster: what is to be tried, the record of what was, and its pictures."""
