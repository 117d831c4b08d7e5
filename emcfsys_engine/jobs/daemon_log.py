"""The daemon's log: one line an occurrence, with the wall clock's time for people."""

import time

from emcfsys_engine.errors import printable


def log(line: str) -> None:
    """Write a line to the daemon's standard output, which is its log when it is detached."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), printable(line), flush=True)
