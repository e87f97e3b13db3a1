"""Sweeps that recur: when, what for, and what came of them. Files below storage.root/schedules are all there is."""
