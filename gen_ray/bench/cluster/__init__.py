"""Benchmarks on Ray: training, streaming, serving, and the plan of a run."""
