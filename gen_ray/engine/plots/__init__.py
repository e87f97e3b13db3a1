"""Pictures as uint8 arrays."""
