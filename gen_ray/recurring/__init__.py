"""Recurring sweeps: their times, their start, and their results. All state is in files below storage.root/schedules."""
