"""A command dealt to many tasks, on one machine or on many nodes: the one road of shards."""
