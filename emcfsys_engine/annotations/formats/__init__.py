"""One module an annotation tool's format: read, and write where we write it."""
