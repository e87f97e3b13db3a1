"""The only floor that imports ray: where things run, never what they compute."""
