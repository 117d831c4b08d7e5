"""Who is for training and who for validation: by image, by block of a stack, or by group."""

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from emcfsys_engine.dataset.facts_cache import FactsCache
from emcfsys_engine.dataset.sources import LabelRef
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import block_means, to_grey
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.project import Project
from emcfsys_engine.text import few

Split = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its labels and its part in the training."""

    image: ImageRef
    label: LabelRef | None  # None only where unlabelled images were asked for
    source: int  # index of its [[data]] table
    split: Split
    name: str  # unique in the project: the path below its source's folder, without extension
    group: str | None
    classes: frozenset[str] = frozenset()  # the classes its labels hold, as far as known
    pixels: tuple[tuple[str, int], ...] | None = None  # (class, pixels), where a mask told
    fold: int = 0  # of a k-fold training, from 1: in which it validates


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


ALIKE = 0.35  # correlation of blurred neighbours above which they are one specimen, cut in sections
_PAIRS_LOOKED_AT = 4
_THUMBNAIL_PX = 48


class _Thumbnail(msgspec.Struct, frozen=True, kw_only=True):
    """Block means of an image, float32, row by row."""

    num_columns: int
    values: bytes


def assign_splits(
    project: Project,
    samples: Sequence[Sample],
    notes: list[str],
    cache: FactsCache,
    fold: int = 0,
) -> list[Sample]:
    """Return the samples with their splits: those of their source, or chosen where it says auto.

    auto keeps groups whole, cuts one block off a stack or a row of sections that look alike, and
    otherwise deals out images. Each source is split by itself; a group that was dealt out with
    another source, or has its split there, is on the same side in all.
    """
    result = list(samples)
    sides: dict[str, Any] = {}  # of groups: those of another source that are called alike are one
    for sample in samples:
        if sample.group is not None and (split := project.data[sample.source].split) != "auto":
            sides.setdefault(sample.group, split)
    for index, source in enumerate(project.data):
        places = [place for place, sample in enumerate(result) if sample.source == index]
        if source.split != "auto":
            chosen: Any = source.split
            for place in places:
                result[place] = replace(result[place], split=chosen)
            continue
        free = [place for place in places if result[place].group not in sides]
        if len(free) < len(places):
            number = f"{len(places) - len(free)} of {len(places)} images"
            notes.append(f"data.{index}: {number} are where their groups are in other sources")
        for place in set(places) - set(free):
            result[place] = replace(result[place], split=sides[result[place].group or ""])
        mine = [result[place] for place in free]
        for local in _validation(mine, project.project.seed + index, index, notes, cache):
            result[free[local]] = replace(mine[local], split="val")
        sides |= {
            one.group: one.split for place in free if (one := result[place]).group is not None
        }
    return result


def assign_fold(
    project: Project, samples: Sequence[Sample], notes: list[str], cache: FactsCache, fold: int
) -> list[Sample]:
    """Return the samples with their splits in one fold of training.kfold, counted from 1.

    Every image that is not for testing is for validation in exactly one fold, whatever its source
    says: groups stay whole, stacks and rows of sections are cut into one block a fold, classes are
    dealt out evenly. Each source is dealt out by itself, but for groups that others have, too; the
    seed and the images decide.
    """
    result = list(samples)
    sizes = [0] * project.training.kfold
    fold_of: dict[str, int] = {}  # of groups, from 0
    for index, source in enumerate(project.data):
        places = [place for place, sample in enumerate(result) if sample.source == index]
        if source.split == "test":
            for place in places:
                result[place] = replace(result[place], split="test")
            continue
        mine = [result[place] for place in places]
        units = _units(mine, index, project.training.kfold, notes, cache)
        held = {
            name: frozenset().union(*(mine[local].classes for local in members))
            for name, members in units.items()
        }
        known = {name for name, n in units.items() if (mine[n[0]].group or "") in fold_of}
        new = {name: classes for name, classes in held.items() if name not in known}
        folds = assign_folds(new, project.training.kfold, project.project.seed + index)
        # The first fold of a source is its largest: it goes where least is so far.
        order = sorted(range(project.training.kfold), key=sizes.__getitem__)
        for name, members in units.items():
            group = mine[members[0]].group
            number = fold_of[group] if group is not None and name in known else order[folds[name]]
            if group is not None:
                fold_of[group] = number
            sizes[number] += len(members)
            split: Any = "val" if number == fold - 1 else "train"
            for local in members:
                result[places[local]] = replace(mine[local], split=split, fold=number + 1)
    return result


def _units(
    samples: Sequence[Sample], index: int, pieces: int, notes: list[str], cache: FactsCache
) -> dict[str, list[int]]:
    """Return what must stay together, by a name: groups, pieces of blocks, or single images."""
    if any(sample.group is not None for sample in samples):
        return _groups(samples)
    blocks = _blocks(samples, index, notes, cache)
    in_blocks = {place for block in blocks for place in block}
    units = {f"{n}": [n] for n in range(len(samples)) if n not in in_blocks}
    for block in blocks:
        for piece in np.array_split(np.array(block), min(pieces, len(block))):
            units[f"{piece[0]}"] = piece.tolist()
    return units


def _groups(samples: Sequence[Sample]) -> dict[str, list[int]]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        groups[sample.group or f"only {sample.name}"].append(place)
    return groups


def _validation(
    samples: Sequence[Sample], seed: int, index: int, notes: list[str], cache: FactsCache
) -> set[int]:
    """Return the places of the samples that are for validation."""
    if any(sample.group is not None for sample in samples):
        groups = _groups(samples)
        held = {
            group: frozenset().union(*(samples[p].classes for p in places))
            for group, places in groups.items()
        }
        chosen = split_units(held, seed)
        notes.append(f"data.{index}: validates on {few(sorted(chosen))} of {len(groups)} groups")
        return {place for group in chosen for place in groups[group]}
    blocks = _blocks(samples, index, notes, cache)
    in_blocks = {place for block in blocks for place in block}
    singles = [place for place in range(len(samples)) if place not in in_blocks]
    result: set[int] = set()
    for block in blocks:
        result |= {block[n] for n in split_block(len(block), seed)}
    units = {samples[place].name: samples[place].classes for place in singles}
    names = split_units(units, seed)
    return result | {place for place in singles if samples[place].name in names}


def _blocks(
    samples: Sequence[Sample], index: int, notes: list[str], cache: FactsCache
) -> list[list[int]]:
    """Return runs of samples that are neighbours in the specimen: stacks and serial sections."""
    stacks: defaultdict[str, list[int]] = defaultdict(list)
    flat: list[int] = []
    for place, sample in enumerate(samples):
        if sample.image.plane is None:
            flat.append(place)
        else:
            stacks[str(sample.image.path)].append(place)
    blocks = [block for block in stacks.values() if len(block) > 1]
    flat += [block[0] for block in stacks.values() if len(block) == 1]
    for row in rows_of_neighbours([samples[place].name for place in flat]):
        block = [flat[n] for n in row]
        alike = likeness([samples[place] for place in block], cache)
        if alike >= ALIKE:
            first, last = samples[block[0]].name, samples[block[-1]].name
            notes.append(
                f"data.{index}: {first} … {last} are neighbours that look alike (correlation "
                f"{alike:.2f}): one block of them validates, not single ones"
            )
            blocks.append(block)
    return blocks


def likeness(row: Sequence[Sample], cache: FactsCache) -> float:
    """Return the median correlation of a few neighbouring images, blurred."""
    last = len(row) - 1
    starts = sorted(
        {round(n * (last - 1) / max(1, _PAIRS_LOOKED_AT - 1)) for n in range(_PAIRS_LOOKED_AT)}
    )
    found: list[float] = []
    for start in starts:
        try:
            first, second = (_thumbnail(row[n], cache) for n in (start, start + 1))
        except (InputError, OSError):
            return 0.0  # a damaged image is named elsewhere
        if first.shape != second.shape or not first.std() or not second.std():
            return 0.0
        found.append(float(np.corrcoef(first.ravel(), second.ravel())[0, 1]))
    return float(np.median(found)) if found else 0.0


def _thumbnail(sample: Sample, cache: FactsCache) -> np.ndarray:
    """Return block means, with the slow shading of the illumination taken away."""
    key = f"neighbours' thumbnail:{sample.image.plane}"
    known = cache.get(sample.image.path, key, _Thumbnail)
    if known is not None:
        return np.frombuffer(known.values, np.float32).reshape(-1, known.num_columns)
    grey = to_grey(read_micrograph(sample.image).pixels)
    step = max(1, min(grey.shape) // _THUMBNAIL_PX)
    small = block_means(grey, (step, step))
    slow = small.mean(axis=0, keepdims=True) + small.mean(axis=1, keepdims=True) - small.mean()
    flat = (small - slow).astype(np.float32)
    known = _Thumbnail(num_columns=small.shape[1], values=flat.tobytes())
    cache.put(sample.image.path, key, known)
    return flat
