"""How often a test tries what it claims: enough for each change, or all with EMCFSYS_THOROUGH=1."""

import os

IS_THOROUGH = os.environ.get("EMCFSYS_THOROUGH", "") not in ("", "0")


def tries(usual: int, thorough: int) -> int:
    """Return how many examples, kills or images a test takes in this run."""
    return thorough if IS_THOROUGH else usual
