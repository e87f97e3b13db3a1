"""The local machine: processes, signals, hardware, the token of Ray."""
