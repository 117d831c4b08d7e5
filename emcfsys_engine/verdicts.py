"""Which masks can be trusted: a project's [limits] on numbers of an image, and what follows."""

import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from emcfsys_engine.errors import ProjectError
from emcfsys_engine.project_tables import Limit
from emcfsys_engine.settings import check_table, nearest

State = Literal["pass", "review", "fail"]
STATES: tuple[State, ...] = ("pass", "review", "fail")  # the worst last
Numbers = Mapping[str, float]  # of one plane, by name; what is not known is left out

# Of the micrograph as it came, whatever predicts its mask.
OF_MICROGRAPHS = ("pixel_nm", "mean", "contrast", "sharpness", "saturation")
_OF_IMAGES = ("confidence", *OF_MICROGRAPHS, "expected_iou")
_OF_PIXELS = ("fraction", "expected_iou")  # of any class
_OF_OBJECTS = ("objects", "diameter_nm", "diameter_px")  # of any but the ground
_SHARES = ("confidence", "saturation", "expected_iou")
_OF_GROUPING = ("group", "groups")  # of [limits] itself; no number is called so
_OF_GROUPS = ("images", "fail_share", "review_share")
MEANS = ("mean", "median")  # of a number over all images of a group
_MOST_PLANES = 8  # of a stack, whose reasons are told


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the limits say of an image, and why it did not pass."""

    state: State
    reasons: tuple[str, ...] = ()


def number_of_class(name: str, word: str) -> str:
    """Return what a number of a class is called, as in the table of measurements."""
    return f"{name}_{word}"


def needs_objects(limits: Iterable[str], classes: Iterable[str]) -> bool:
    """Tell whether limits ask for what is found only by telling objects apart."""
    wanted = {number_of_class(name, word) for name in classes for word in _OF_OBJECTS}
    return not wanted.isdisjoint(limits)


def verdict_of(numbers: Numbers, limits: Mapping[str, Limit]) -> Verdict:
    """Judge one plane: the worst of its numbers counts; one that is not known is to be reviewed.

    Its reasons come in the order of the limits.
    """
    told = [(name, *_of_number(name, numbers.get(name), one)) for name, one in limits.items()]
    return Verdict(
        state=_worst(state for _, state, _ in told),
        reasons=tuple(f"{name} {why}" for name, _, why in told if why),
    )


def verdict_of_planes(planes: Mapping[str, Numbers], limits: Mapping[str, Limit]) -> Verdict | None:
    """Judge a file by its planes ("" is that of a single image); None without limits or numbers."""
    if not limits or not planes:
        return None
    each = {plane: verdict_of(numbers, limits) for plane, numbers in planes.items()}
    # The worst planes first: of a long stack not every reason is told.
    found = sorted(
        ((plane, one) for plane, one in each.items() if one.reasons),
        key=lambda item: -STATES.index(item[1].state),
    )
    reasons = [
        f"plane {plane}: {why}" if plane else why
        for plane, one in found[:_MOST_PLANES]
        for why in one.reasons
    ]
    if len(found) > _MOST_PLANES:
        reasons.append(f"and {len(found) - _MOST_PLANES} more planes")
    return Verdict(state=_worst(one.state for one in each.values()), reasons=tuple(reasons))


def _of_number(name: str, value: float | None, limit: Limit) -> tuple[State, str]:
    """Return what one limit says of its number, and why it does not pass; "" if it does."""
    if value is None:
        if name == "pixel_nm" or name.endswith("_nm"):
            return "review", "is not known: the image has no pixel size, or no object"
        if name.endswith("expected_iou"):
            return "review", "is not known: the model cannot tell, or the class is not there"
        return "review", "is not known: it was not measured, or there is no object"
    bounds: tuple[tuple[State, float | None, float | None], ...] = (
        ("fail", limit.fail_below, limit.fail_above),
        ("review", limit.review_below, limit.review_above),
    )
    for state, low, high in bounds:
        if low is not None and value < low:
            return state, f"{value:.4g} is below {low:.4g} ({state})"
        if high is not None and value > high:
            return state, f"{value:.4g} is above {high:.4g} ({state})"
    return "pass", ""


def _worst(states: Iterable[State]) -> State:
    return STATES[max(map(STATES.index, states), default=0)]


def check_limits(
    file: Path, given: Any, classes: Mapping[str, int], faults: list[ProjectError]
) -> dict[str, Limit]:
    """Return [limits] of a project, and add every fault of it; the first class is the ground."""
    if not isinstance(given, Mapping):
        remedy = "Write [limits.confidence] with review_below = 0.8"
        faults.append(ProjectError(file, "limits", "is no table", remedy))
        return {}
    own = {name: table for name, table in given.items() if name not in _OF_GROUPING}
    return _checked(file, "limits", own, (_names(classes), "an image of this project"), faults)


def check_groups(
    file: Path, given: Any, classes: Mapping[str, int], faults: list[ProjectError]
) -> tuple[str, dict[str, Limit]]:
    """Return group and groups of [limits], and add every fault of them."""
    group = given.get("group", "") if isinstance(given, Mapping) else ""
    tables = given.get("groups", {}) if isinstance(given, Mapping) else {}
    example = 'Write group = "folder", or an expression on the path such as "^grid(\\d+)"'
    if not isinstance(group, str):
        faults.append(ProjectError(file, "limits.group", "is no text", example))
        return "", {}
    try:
        re.compile(group)
    except re.error as error:
        what = f"{group!r} is no regular expression: {error}"
        faults.append(ProjectError(file, "limits.group", what, "Mend the pattern"))
    if not isinstance(tables, Mapping):
        remedy = "Write [limits.groups.confidence_mean] with review_below = 0.8"
        faults.append(ProjectError(file, "limits.groups", "is no table", remedy))
        return group, {}
    if tables and not group:
        what = "needs limits.group: what is a group?"
        faults.append(ProjectError(file, "limits.groups", what, example))
    names = [
        *_OF_GROUPS,
        *(f"{name}_{mean}" for name in _names(classes) for mean in MEANS),
    ]
    return group, _checked(file, "limits.groups", tables, (names, "a group of images"), faults)


def _checked(
    file: Path,
    place: str,
    given: Mapping[str, Any],
    known: tuple[list[str], str],
    faults: list[ProjectError],
) -> dict[str, Limit]:
    names, of_what = known
    limits: dict[str, Limit] = {}
    for name, table in given.items():
        if name not in names:
            remedy = nearest(name, names)
            what = f"is no number of {of_what}"
            faults.append(ProjectError(file, f"{place}.{name}", what, remedy))
            continue
        number = len(faults)
        limit = check_table(file, f"{place}.{name}", table, Limit, faults)
        if limit is not None and len(faults) == number:
            faults += _faults_of(file, place, name, limit)
            limits[name] = limit
    return limits


def _names(classes: Mapping[str, int]) -> list[str]:
    """Return every number that may have limits."""
    ground = min(classes, key=classes.__getitem__, default="")
    return [
        *_OF_IMAGES,
        *(
            number_of_class(name, word)
            for name in classes
            for word in (_OF_PIXELS if name == ground else (*_OF_PIXELS, *_OF_OBJECTS))
        ),
    ]


def _is_share(name: str) -> bool:
    for mean in MEANS:
        name = name.removesuffix(f"_{mean}")
    return name in _SHARES or name.endswith(("_fraction", "_share", "_expected_iou"))


def _faults_of(file: Path, place: str, name: str, limit: Limit) -> list[ProjectError]:
    """Name what can never hold, or says nothing."""
    set_ = {key: value for key, value in msgspec.structs.asdict(limit).items() if value is not None}

    def fault(key: str, what: str, remedy: str) -> list[ProjectError]:
        return [ProjectError(file, f"{place}.{name}{key}", what, remedy)]

    if not set_:
        return fault("", "says nothing", "Add review_below, review_above, fail_below or fail_above")
    for key, value in set_.items():
        if not math.isfinite(value):
            return fault(f".{key}", f"{value} is no limit", "Use a number")
        if _is_share(name) and not 0 <= value <= 1:
            return fault(f".{key}", f"{value:g} is no share", "Use 0 to 1: 0.8 is 80 %")
    # From the left, where all fails, to the right, where all fails again.
    order = ("fail_below", "review_below", "review_above", "fail_above")
    there = [key for key in order if key in set_]
    for low, high in pairwise(there):
        if set_[low] > set_[high]:
            what = f"{set_[low]:g} is above {high} = {set_[high]:g}"
            return fault(f".{low}", what, f"Keep {' ≤ '.join(order)}")
    return []
