"""The queue, the daemon that empties it, and who has which GPU."""
