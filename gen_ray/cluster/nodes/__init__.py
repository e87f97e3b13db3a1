"""Ray's processes on the machines of a cluster: start, connection and checks."""
