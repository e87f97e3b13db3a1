"""The local machine: processes, signals, hardware, Ray's token."""
