"""One page of a run, to send or keep."""
