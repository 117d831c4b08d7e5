"""The hot folder's worker: every image that arrives gets its mask."""
