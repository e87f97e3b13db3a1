"""The parts of sweeps that need no cluster: configuration, the record of trials, and plots."""
