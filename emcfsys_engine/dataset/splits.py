"""Who is for training and who for validation: by image, by block of a stack, or by group."""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, TypeVar

Split = Literal["train", "val", "test"]
Unit = TypeVar("Unit", bound=Hashable)

VALIDATION_SHARE = 0.2


def split_units(
    units: Mapping[Unit, frozenset[str]], seed: int, share: float = VALIDATION_SHARE
) -> set[Unit]:
    """Return the units for validation: about a fifth, with every class in both parts if possible.

    Units are images or groups that must stay together, with the classes each holds. The rarest
    class is dealt out first. The same seed and the same units give the same answer.
    Source: Sechidis et al. 2011 (iterative stratification), for two parts.
    """
    if len(units) < 2:
        return set()
    order = sorted(units, key=repr)
    random.Random(seed).shuffle(order)
    wanted = max(1, round(len(order) * share))
    counts = Counter(name for unit in order for name in units[unit])
    chosen: set[Unit] = set()
    for name in sorted(counts, key=lambda name: (counts[name], name)):
        have = sum(name in units[unit] for unit in chosen)
        want = min(counts[name] - 1, max(1, round(counts[name] * share)))
        candidates = [unit for unit in order if name in units[unit] and unit not in chosen]
        # A unit that holds fewer other classes disturbs their balance least.
        candidates.sort(key=lambda unit: len(units[unit]))
        for unit in candidates[: max(0, want - have)]:
            if len(chosen) < wanted:
                chosen.add(unit)
    for unit in order:
        if len(chosen) >= wanted:
            break
        chosen.add(unit)
    return chosen


def split_block(length: int, seed: int, share: float = VALIDATION_SHARE) -> set[int]:
    """Return the places of one block at either end of a row of neighbours, for validation.

    Neighbouring sections look alike: a block has one border with the training part, not many.
    """
    if length < 2:
        return set()
    wanted = max(1, round(length * share))
    at_end = random.Random(seed).random() < 0.5
    return set(range(length - wanted, length)) if at_end else set(range(wanted))


def assign_folds(units: Mapping[Unit, frozenset[str]], folds: int, seed: int) -> dict[Unit, int]:
    """Return a fold for every unit, classes and sizes balanced, for k-fold cross-validation."""
    order = sorted(units, key=repr)
    random.Random(seed).shuffle(order)
    counts = Counter(name for unit in order for name in units[unit])
    order.sort(key=lambda unit: min((counts[name] for name in units[unit]), default=len(order)))
    sizes = [0] * folds
    held: list[Counter[str]] = [Counter() for _ in range(folds)]
    result: dict[Unit, int] = {}
    for unit in order:
        rarest = min(units[unit], key=lambda name: (counts[name], name), default="")
        fold = min(range(folds), key=lambda f: (held[f][rarest], sizes[f], f))
        result[unit] = fold
        sizes[fold] += 1
        held[fold].update(units[unit])
    return result


def rows_of_neighbours(names: Sequence[str], least: int = 4) -> list[list[int]]:
    """Return runs of consecutively numbered names (s01, s02, s03 …) as lists of places.

    Whether such neighbours look alike is for the pixels to say.
    """
    series: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for place, name in enumerate(names):
        head, digits, tail = _last_number(name)
        if digits:
            series[head, tail].append((int(digits), place))
    rows: list[list[int]] = []
    for members in series.values():
        members.sort()
        row = [members[0][1]]
        for (before, _), (number, place) in pairwise(members):
            if number != before + 1:
                rows.append(row)
                row = []
            row.append(place)
        rows.append(row)
    return [row for row in rows if len(row) >= least]


def _last_number(name: str) -> tuple[str, str, str]:
    end = len(name)
    while end and not name[end - 1].isdecimal():
        end -= 1
    start = end
    while start and name[start - 1].isdecimal() and end - start < 12:
        start -= 1
    return name[:start], name[start:end], name[end:]
