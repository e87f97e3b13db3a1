"""Tests of gen_ray.datasets."""
