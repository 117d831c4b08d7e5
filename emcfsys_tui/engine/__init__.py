"""The only caller of the engine: each module asks for one kind of thing."""
