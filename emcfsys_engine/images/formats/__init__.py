"""One module a file format: recognise, describe, read."""
