"""A filter of runs in a line of words: iou>.8 backbone:resnet* failed.

All words must hold. `key>value` (also < >= <= =) compares numbers, `key:glob` words; a key is iou,
step, state, network, reason, group, or any setting of project.toml by its name (training.loss, or
loss). A word alone is looked for in the run's name, state, network and reason.
"""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from emcfsys_engine.errors import InputError
from emcfsys_tui.view_models import RunRow

Test = Callable[[RunRow], bool]

_TERM = re.compile(r"([\w.]+)(>=|<=|!=|>|<|=|:)(.*)")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def filter_of(text: str) -> Test:
    """Return whether a run is meant by these words.

    Raises: InputError for a comparison without a number.
    """
    tests = [_test(word) for word in text.split()]
    return lambda run: all(test(run) for test in tests)


def _test(word: str) -> Test:
    term = _TERM.fullmatch(word)
    if term is None:
        low = word.lower()
        return lambda run: any(low in text.lower() for text in _texts(run))
    key, sign, wanted = term[1].lower(), term[2], term[3]
    if sign == ":":
        glob = wanted.lower() if "*" in wanted or "?" in wanted else f"*{wanted.lower()}*"
        return lambda run: fnmatchcase(value_of(run, key).lower(), glob)
    number = _number(wanted)
    if number is None:
        if sign in ("=", "!="):
            return lambda run: (value_of(run, key).lower() == wanted.lower()) == (sign == "=")
        raise InputError(word, "compares with no number", "Write one like iou>.8")
    compare = _COMPARE[sign]

    def holds(run: RunRow) -> bool:
        here = _number(value_of(run, key))
        return here is not None and compare(here, number)

    return holds


def value_of(run: RunRow, key: str) -> str:
    """Return what a run has for a key; empty where it has nothing."""
    known = {
        "iou": "" if run.score is None else str(run.score),
        "best": "" if run.score is None else str(run.score),
        "step": str(run.step),
        "state": run.state,
        "network": run.network,
        **dict.fromkeys(("backbone", "model.backbone"), run.network.partition("/")[2]),
        "reason": run.reason,
        "group": run.group,
        "does": run.does,
        "run": run.id,
    }
    if known.get(key):
        return known[key]
    found = (value for name, value in run.settings if key in (name, name.rpartition(".")[2]))
    return next(found, "")


def _texts(run: RunRow) -> tuple[str, ...]:
    return run.id, run.state, run.network, run.reason, run.does, run.group


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
