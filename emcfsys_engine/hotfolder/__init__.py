"""Which files of a watched folder have settled, and which were seen."""
