"""Micrographs in a terminal: decoded in a child, encoded, placed."""
