"""Jobs: a queue in one file, and a daemon that starts what fits and tells how it ended."""
