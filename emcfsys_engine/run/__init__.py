"""One run: its folder, its events, how it ended, and the groups it belongs to."""
