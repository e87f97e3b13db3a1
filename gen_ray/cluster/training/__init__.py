"""One experiment on Ray Train, from configuration to artifact."""
