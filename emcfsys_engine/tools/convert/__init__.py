"""Labels from any tool to any other, masks among them; micrographs to PNG."""
