"""Folders and object stores below storage.root: paths, integrity, replacement, locks."""
