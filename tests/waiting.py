"""How long a test waits for what must come."""

# At most: a test that passes never waits it out, and a busy machine needs more than seconds.
PATIENCE_S = 120.0
