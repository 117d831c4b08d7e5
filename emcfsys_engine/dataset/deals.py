"""Which images a run trains and validates on: dealt once, kept for ever, read back each start."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import DataFaults, InputError, RunFolderError
from emcfsys_engine.files import read_own, remedy_of, write_whole
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import Project, class_values_now, labels_now, numbers_now
from emcfsys_engine.text import few

Place = tuple[int, ImageRef]  # number of the [[data]] table, image


class Deal(msgspec.Struct, frozen=True, kw_only=True):
    """The images of a run by name; one that is in neither part is not of the run."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    files: dict[str, str] = {}  # name -> source and extension: tells images of one name apart

    @property
    def names(self) -> tuple[str, ...]:
        """All images of the run."""
        return self.train + self.val


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """What tells whether an image or its labels are those of the last start."""

    image: str  # a digest of the grey values as they were read; empty where all are one value
    labels: str  # a digest of the class of every pixel


def validation_digest(val: Sequence[Sample], prints: Mapping[str, Fingerprint]) -> str:
    """Return a name for what is validated on: scores of another one are not compared with its."""
    content = [(one.name, prints[one.name].image, prints[one.name].labels) for one in val]
    return hashlib.blake2b(repr(sorted(content)).encode(), digest_size=12).hexdigest()


class FoldDeal(msgspec.Struct, frozen=True, kw_only=True):
    """runs/GROUP.deal.json: the fold in which each image of a k-fold training validates."""

    format: int = 1
    folds: dict[str, int]
    files: dict[str, str] = {}

    def deal(self, fold: int) -> Deal:
        """Return one fold's part: what validates in it, and all the others."""
        return Deal(
            train=tuple(name for name, number in self.folds.items() if number != fold),
            val=tuple(name for name, number in self.folds.items() if number == fold),
            files=self.files,
        )


class _Planned(msgspec.Struct, frozen=True, kw_only=True):
    """Of plan.json, what says which images train and validate."""

    train_images: tuple[str, ...] = ()
    val_images: tuple[str, ...] = ()
    files: dict[str, str] = {}


def planned(plan_file: Path) -> Deal | None:
    """Return the deal of a plan.json; None where there is none, or an older one without lists.

    Raises: RunFolderError if it is damaged.
    """
    try:
        plan: _Planned = any_names.decode(read_own(plan_file)[0], _Planned)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise RunFolderError(plan_file, f"cannot be read: {error}", "Train anew") from None
    if not plan.train_images or not plan.val_images:
        return None
    return Deal(train=plan.train_images, val=plan.val_images, files=plan.files)


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """The images on the disk that a deal speaks of, and those it does not."""

    name_of: Mapping[Place, str]
    vanished: tuple[str, ...]
    later: tuple[str, ...]

    def notes(self, *, later_join: bool = False) -> list[str]:
        """Return sentences about images that came or went since the deal."""
        found: list[str] = []
        if self.vanished:
            are = "are" if len(self.vanished) > 1 else "is"
            found.append(f"{few(self.vanished)} {are} no longer there, or without labels")
        if self.later and not later_join:
            number = f"{len(self.later)} image{'s' if len(self.later) > 1 else ''}"
            found.append(f"{number} that this run was not begun with: left out: {few(self.later)}")
        return found


def recognised(deal: Deal, images: Iterable[tuple[int, ImageRef, str, bool]]) -> Dealt:
    """Find the images of a deal again, also in another [[data]] table.

    `images`: each with its table, its plain name, and whether it could be for training.
    """
    wanted = frozenset(deal.names)
    candidates: defaultdict[str, list[Place]] = defaultdict(list)
    named: dict[Place, tuple[str, bool]] = {}
    for source, image, plain, is_ours in images:
        place = (source, image)
        named[place] = plain, is_ours
        for name in dict.fromkeys((plain, full_name(source, plain, image))):
            if name in wanted:
                candidates[name].append(place)
    name_of: dict[Place, str] = {}
    for name in deal.names:
        places = candidates[name]
        if len(places) > 1:
            places = [one for one in places if file_word(*one) == deal.files.get(name)]
        if len(places) == 1:
            name_of[places[0]] = name
    found = set(name_of.values())
    return Dealt(
        name_of=name_of,
        vanished=tuple(name for name in deal.names if name not in found),
        later=tuple(n for place, (n, ours) in named.items() if ours and place not in name_of),
    )


def full_name(source: int, plain: str, image: ImageRef) -> str:
    """Return the name of an image whose plain name others have, too."""
    return f"{source}/{plain}{image.path.suffix}"


def file_word(source: int, image: ImageRef) -> str:
    """Return what tells images of one plain name apart."""
    return f"{source}/{image.path.suffix}"


def files_of(samples: Iterable[Sample]) -> dict[str, str]:
    """Return what tells each sample from others of its name."""
    return {sample.name: file_word(sample.source, sample.image) for sample in samples}


def changes(
    deal: Deal, before: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]
) -> list[str]:
    """Return sentences about images and labels that are not those of the last start."""
    both = [name for name in deal.names if name in before and name in now]
    labels = [name for name in both if before[name].labels != now[name].labels]
    images = [name for name in both if before[name].image != now[name].image]
    found: list[str] = []
    if labels:
        found.append(f"Labels changed since the last start and are used as they are: {few(labels)}")
    if images:
        found.append(f"Images changed since the last start and are used as they are: {few(images)}")
    return found


def since_last_start(
    deal: Deal,
    before: Mapping[str, Fingerprint],
    now: Mapping[str, Fingerprint],
    project: Project,
) -> list[str]:
    """Return sentences about what a run that goes on finds changed.

    Raises: DataFaults for what it cannot go on with.
    """
    refuse_swapped(deal, before, now, project.file)
    refuse_renumbered(deal, before, now, project)
    return changes(deal, before, now)


def refuse_renumbered(
    deal: Deal,
    before: Mapping[str, Fingerprint],
    now: Mapping[str, Fingerprint],
    project: Project,
) -> None:
    """Refuse labels that changed together with the numbers of their classes in project.toml.

    A run keeps the classes that it was begun with, by their values in a mask: in masks that were
    numbered anew it would learn one class under the name of another. Raises: DataFaults.
    """
    both = [name for name in deal.names if name in before and name in now]
    changed = [name for name in both if before[name].labels != now[name].labels]
    told = renumbered(project)
    if changed and told:
        what = f"mean others since this run was begun ({told}), and its labels changed"
        remedy = f"Train anew, or put both back ({few(changed)})"
        raise DataFaults([InputError(f"{project.file}: classes", what, remedy)])


def refuse_renumbered_since(project: Project, numbers: str) -> None:
    """Refuse classes whose numbers changed between asking for a run and its begin.

    It was asked for with those of then, and its masks may be by those of now.
    `numbers`: of project.toml when it was asked for, see `numbers_now`; "": nobody noted them.
    Raises: DataFaults.
    """
    if numbers in ("", numbers_now(project.file)):
        return
    if told := renumbered(project):
        what = f"mean others since this was asked for ({told})"
        raise DataFaults([InputError(f"{project.file}: classes", what, "Ask for it anew")])


def renumbered(project: Project) -> str:
    """Say which classes have other numbers in project.toml now, or labels other meanings.

    Numbers matter where there are masks: shapes are told by their names. Empty: none.
    """
    today, found = class_values_now(project.file), list[str]()
    if any(source.masks is not None for source in project.data):
        found = [
            f"{name} = {value}, now {today[name]}"
            for name, value in project.classes.items()
            if today.get(name, value) != value
        ]
    known = {(one.images, one.masks, one.annotations): one.labels for one in project.data}
    for whose, labels in labels_now(project.file):
        before = known.get(whose, {})
        found += [
            f"label {label!r} = {meaning}, now {labels[label]}"
            for label, meaning in before.items()
            if labels.get(label, meaning) != meaning
        ]
    return ", ".join(found)


def refuse_swapped(
    deal: Deal, before: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint], where: Path
) -> None:
    """Refuse an image that became one of the other part: what trains would validate.

    Raises: DataFaults naming each such pair.
    """
    faults: list[InputError] = []
    for mine, others in ((deal.train, deal.val), (deal.val, deal.train)):
        of_others = {before[name].image: name for name in others if name in before}
        for name in mine:
            if name not in before or name not in now or before[name] == now[name]:
                continue
            other = of_others.get(now[name].image)
            if other is not None and now[name].image not in ("", before[name].image):
                word = "trained" if others is deal.train else "validated"
                what = f"is now the image that this run {word} on as {other}"
                remedy = "Give both their own names back, or train anew"
                faults.append(InputError(f"{where}: {name}", what, remedy))
    if faults:
        raise DataFaults(faults)


def side_of(sample: Sample) -> str:
    """Return the part of a training, or the fold, that a sample is in."""
    return f"fold {sample.fold}" if sample.fold else sample.split


def twin_fault(other: Sample, first: Sample) -> InputError:
    """Return the error for one image that trains and validates."""
    what = f"is in {side_of(other)}, and the same image {first.image} in {side_of(first)}"
    remedy = "Keep one of them: validation on training images measures nothing"
    return InputError(str(other.image), what, remedy)


def twin_faults(samples: Iterable[Sample], prints: Mapping[str, Fingerprint]) -> list[InputError]:
    """Return an error for each image whose pixels lie on another side, too; blank ones are none."""
    first: dict[str, Sample] = {}
    faults: list[InputError] = []
    for sample in sorted(samples, key=lambda one: str(one.image)):
        known = prints.get(sample.name)
        if known is None or not known.image:
            continue
        twin = first.setdefault(known.image, sample)
        if side_of(twin) != side_of(sample):
            faults.append(twin_fault(sample, twin))
    return faults


def keep_folds(file: Path, samples: Sequence[Sample], begun: Mapping[int, Deal]) -> FoldDeal:
    """Keep the deal of a k-fold group; return the one that is kept: the first to come decides.

    `begun`: the folds that an older version began, each with the deal of its own.
    Raises: RunFolderError if it cannot be written or read.
    """
    folds = {sample.name: sample.fold for sample in samples if sample.fold}
    if begun:
        folds = _around(folds, begun, max(folds.values(), default=0))
    made = FoldDeal(folds=folds, files=files_of(samples))
    temporary = file.with_name(f".{file.name}.{os.getpid()}.deal.tmp")
    try:
        write_whole(temporary, any_names.encode(made, indent=1))
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass  # a fold that began in the same moment was first
        except OSError:  # a file system without links
            if not file.exists():
                temporary.replace(file)
        temporary.unlink(missing_ok=True)
    except OSError as error:
        what = f"could not be written: {error.strerror}"
        raise RunFolderError(file, what, remedy_of(error)) from None
    return kept_folds(file) or made


def kept_folds(file: Path) -> FoldDeal | None:
    """Return the deal that a k-fold group keeps; None before its first fold.

    Raises: RunFolderError if it is damaged.
    """
    try:
        return any_names.decode(read_own(file)[0], FoldDeal)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        remedy = "Restore it from a copy: without it the folds would not be of one deal"
        raise RunFolderError(file, f"cannot be read: {error}", remedy) from None


def _around(folds: Mapping[str, int], begun: Mapping[int, Deal], num_folds: int) -> dict[str, int]:
    """Return a deal that agrees with the folds that were begun without one.

    What they all train on is for the others; what came later is for none.
    """
    fixed = {name: fold for fold, deal in begun.items() for name in deal.val}
    known = {name for deal in begun.values() for name in deal.names}
    free = [fold for fold in range(1, num_folds + 1) if fold not in begun]
    sizes = Counter(dict.fromkeys(free, 0))
    result: dict[str, int] = {}
    for name, number in folds.items():
        if name in fixed:
            result[name] = fixed[name]
        elif name in known and free:
            fold = number if number in free else min(free, key=lambda one: (sizes[one], one))
            sizes[fold] += 1
            result[name] = fold
    return result
