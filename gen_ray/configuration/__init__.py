"""Typed configurations: YAML files, overrides, and errors that name the key."""
