"""The only layer that imports ray: where work runs. It computes nothing itself."""
