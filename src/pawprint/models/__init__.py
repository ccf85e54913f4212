"""Architectures, one a file, and their registry."""
