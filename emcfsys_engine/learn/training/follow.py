"""A training that follows the labels: what was drawn or mended since joins it, whole and readable.

Nothing that is wrong with a file ends the training: it is named once, and goes on without it.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.dataset.corrected import Moves, moved_classes, moved_from, numbered_anew
from emcfsys_engine.dataset.deals import (
    Fingerprint,
    files_of,
    refuse_renumbered_since,
    renumbered,
    validation_digest,
)
from emcfsys_engine.dataset.follow import (
    LabelledNow,
    Stamp,
    folders_stamp,
    gather_some,
    has_both_sides,
    label_stamp,
    labelled_now,
    settled,
    waiting_words,
)
from emcfsys_engine.dataset.samples import Samples, disagreeing
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import DataFaults, InputError, UnknownClassError
from emcfsys_engine.files import write_whole
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.images.walk import FileStamp
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.learn.training.dataset import Dataset, TrainingItem, load_item
from emcfsys_engine.learn.training.plan import Plan, choose_class_weights, encode_plan
from emcfsys_engine.learn.training.setup import Guesses, TrainingSetup
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import UNLABELLED, Project, numbers_now
from emcfsys_engine.run.events import LabelsJoined, PhaseBegan, WarningGiven
from emcfsys_engine.text import few

_LOOK_EVERY_S = 1.0


def first_labels(worker: RunContext, project: Project) -> Samples | None:
    """Wait until an image to train on and one to validate on are labelled; None: asked to end.

    Raises: DataFaults where enough is labelled from the start, and something of it is wrong, and
    for classes that were numbered anew while it waits.
    """
    said: set[str] = set()
    worker.emit(PhaseBegan(phase="waiting", step=0))
    while True:
        num_sound: int | None = None
        refuse_renumbered_since(project, worker.record.numbers)
        stamp = folders_stamp(project)  # before it is read: what comes meanwhile is looked at again
        found = gather_some(project)
        if has_both_sides(found.samples):
            if found.faults and not said:
                raise DataFaults(found.faults)
            sound = sound_ones(found.samples, project)
            if has_both_sides(sound) and not disagreeing(found.faults):
                return Samples(samples=sound, notes=found.notes)
            num_sound = len(sound)
        waiting = waiting_words(len(found.samples), num_sound)
        waits = f"Waits for labels: {waiting}; looks for them in {few(_places(project))}"
        texts = [waits, *map(_words_of, found.faults)]
        for text in texts:
            if text not in said:
                worker.emit(WarningGiven(message=text))
        said |= {*texts}
        while folders_stamp(project) == stamp:
            if worker.stop_request() is not None:
                return None
            time.sleep(_LOOK_EVERY_S)


def _places(project: Project) -> list[str]:
    patterns = (source.masks or source.annotations for source in project.data)
    roots = (root_of(one, project.folder) for one in patterns if one is not None)
    return [str(one) for one in dict.fromkeys(roots)]


def _words_of(fault: InputError) -> str:
    """Return a fault with what its own remedy leaves out: a training keeps its classes."""
    if not isinstance(fault, UnknownClassError):
        return str(fault)
    return f"{fault} This training has the classes of its start: with others start it anew."


def sound_ones(samples: Sequence[Sample], project: Project) -> tuple[Sample, ...]:
    """Return the samples that can be read and teach something; of twins on two sides the first."""
    sides: dict[str, str] = {}
    prints: dict[str, Fingerprint] = {}
    found: list[Sample] = []
    for one in samples:
        try:
            item = load_item(one, project, Normaliser(), prints)
        except (DataFaults, InputError):
            continue
        image = prints[one.name].image
        if teaches(item) and (not image or sides.setdefault(image, one.split) == one.split):
            found.append(one)
    return tuple(found)


def teaches(item: TrainingItem) -> bool:
    """Tell whether any pixel of an image has a label."""
    return not bool((item.labels == UNLABELLED).all())


@dataclass
class Follower:
    """Finds what was labelled since, and makes of it what the training goes on with."""

    project: Project
    make_card: Callable[[Plan, Dataset], ModelCard]
    numbers: str = ""  # of project.toml when the run was asked for
    _seen: frozenset[FileStamp] = frozenset()
    _stamps: dict[str, Stamp] = field(default_factory=dict[str, Stamp])
    _said: set[str] = field(default_factory=set[str])

    def begin(self, train: Dataset, val: Dataset) -> None:
        """Note the files of what is about to be read."""
        self._stamps = {one.name: label_stamp(one) for one in (*train.samples, *val.samples)}

    def __call__(self, setup: TrainingSetup, step: int, guesses: Guesses) -> TrainingSetup | None:
        """Return what the training goes on with; None where no label came, changed or went.

        The plan on the disk is the new one before it is returned: a resume goes on with the same.
        Once classes have other numbers in project.toml, masks may be by either: none joins.
        """
        seen = folders_stamp(self.project)
        if seen == self._seen or setup.plan.deal is None or self._is_renumbered(setup):
            return None
        try:
            now = labelled_now(self.project, setup.plan.deal)
        except OSError as error:  # a folder's disk fails: what is in memory goes on
            place = os.fsdecode(error.filename or self.project.folder)
            self._say_once(setup, f"{place}: {error.strerror}: no label joins for now")
            return None
        if faults := disagreeing(now.faults):
            self._say_once(setup, f"No label joins: {faults[0]}")
            self._seen = seen
            return None
        self._say(setup, map(_words_of, now.faults))
        for doubt in now.doubts:
            self._say_once(setup, doubt)
        before = dict(self._stamps)
        asked = [one for one in now.samples if label_stamp(one) != before.get(one.name)]
        whole = settled(asked)
        prints: dict[str, Fingerprint] = {}
        items = self._loaded(setup, whole, prints)
        if self._is_renumbered(setup):  # while they were read
            self._stamps = before
            return None
        was_here = bool(self._seen)
        if len(whole) == len(asked):
            self._seen = seen
        # What is there when a run is resumed is taken at a person's word.
        is_doubted = was_here and self._is_unlike_others(setup, whole, items, guesses)
        if is_doubted or self._is_saved_by_new_numbers(setup, whole, items):
            self._stamps = before  # all are looked at again once one of them changes
            return None
        return self._taken(setup, now, items, prints, step)

    def _is_renumbered(self, setup: TrainingSetup) -> bool:
        if self.numbers in ("", numbers_now(self.project.file)):
            return False
        if told := renumbered(self.project):
            since = [*setup.plan.joined]
            others = f" Were these saved by the new ones, too: {few(since)}?" if since else ""
            text = (
                f"{self.project.file}: classes mean others since this run was begun ({told}): no "
                f"label joins it any more. Put them back, or train anew.{others}"
            )
            self._say_once(setup, text)
        return bool(told)

    def _is_saved_by_new_numbers(
        self, setup: TrainingSetup, samples: Sequence[Sample], items: Mapping[str, TrainingItem]
    ) -> bool:
        """Tell whether masks changed as new numbers do that project.toml does not say yet.

        Whoever saves the masks first may have saved new ones by those numbers, too: none joins.
        """
        by_numbers = _masks_among(samples)
        moves = {
            one.name: moved_classes(part[n].labels, items[one.name].labels)
            for part in (setup.train, setup.val)
            for n, one in enumerate(part.samples)
            if one.name in items and one.name in by_numbers
        }
        found = numbered_anew(moves)
        if found:
            self._say_numbered(setup, found, "In the masks of", "than before")
        return bool(found)

    def _is_unlike_others(
        self,
        setup: TrainingSetup,
        samples: Sequence[Sample],
        items: Mapping[str, TrainingItem],
        guesses: Guesses,
    ) -> bool:
        """Tell whether new masks call whole classes others than the model finds them by now.

        So do masks by new numbers, while those that are known still have the old ones.
        """
        known = {one.name for one in (*setup.train.samples, *setup.val.samples)}
        names = {name for name in _masks_among(samples) if name in items and name not in known}
        if not names:
            return False
        guessed = guesses(setup.train.renewed([o for o in samples if o.name in names], items))
        found = {
            name: moves
            for name, guess in guessed.items()
            if (moves := moved_from(guess, items[name].labels))
        }
        if found:
            self._say_numbered(setup, found, "In the new masks of", "than by all before")
        return bool(found)

    def _say_numbered(
        self, setup: TrainingSetup, found: Mapping[str, Moves], where: str, before: str
    ) -> None:
        text = (
            f"{where} {few([*found])} whole classes are others {before} "
            f"({_told(setup.train.project, next(iter(found.values())))}), as in masks that "
            "were saved by new numbers: no label joins. Put them back and train anew by the "
            "new numbers; if they are right, stop this run and resume it"
        )
        self._say_once(setup, text)

    def _say(self, setup: TrainingSetup, texts: Iterable[str]) -> None:
        for text in texts:
            self._say_once(setup, f"Goes on without it: {text}")

    def _say_once(self, setup: TrainingSetup, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            setup.emit(WarningGiven(message=text))

    def _loaded(
        self, setup: TrainingSetup, samples: Sequence[Sample], prints: dict[str, Fingerprint]
    ) -> dict[str, TrainingItem]:
        """Read what is new; what cannot be read is named, and tried again when it changes."""
        items: dict[str, TrainingItem] = {}
        for one in samples:
            self._stamps[one.name] = label_stamp(one)
            try:
                item = load_item(
                    one, self.project, setup.train.normaliser, prints, setup.train.channels
                )
            except DataFaults as several:
                self._say(setup, map(_words_of, several.faults))
            except InputError as fault:
                self._say(setup, [_words_of(fault)])
            else:
                items[one.name] = item
        return items

    def _taken(
        self,
        setup: TrainingSetup,
        now: LabelledNow,
        items: Mapping[str, TrainingItem],
        prints: Mapping[str, Fingerprint],
        step: int,
    ) -> TrainingSetup | None:
        known = {one.name for one in (*setup.train.samples, *setup.val.samples)}
        sides = _sides(setup.plan)
        may_join = {
            one.name: one
            for one in now.samples
            if one.name in items
            and (one.name in known or teaches(items[one.name]))
            and prints[one.name]
            != (setup.plan.fingerprints.get(one.name) if one.name in known else None)
            and self._is_on_its_side(setup, one, prints[one.name].image, sides)
        }
        fresh = [one for name, one in may_join.items() if name not in known]
        changed = tuple(name for name in may_join if name in known)
        gone = self._gone(setup, now)
        if not fresh and not changed and not gone:
            return None
        plan = msgspec.structs.replace(_with(setup.plan, fresh, changed, prints, step), sides=sides)
        train, val = (
            part.renewed(
                [one for one in part.samples if one.name not in gone]
                + [one for one in fresh if one.split == split],
                {name: items[name] for name in (*changed, *(one.name for one in fresh))},
            )
            for part, split in ((setup.train, "train"), (setup.val, "val"))
        )
        bare = _still_bare(setup.unlabelled, fresh)
        plan = msgspec.structs.replace(
            plan,
            class_weights=choose_class_weights(train, reasons := dict(plan.reasons)),
            unlabelled_images=tuple(one.name for one in bare.samples) if bare else (),
        )
        plan = msgspec.structs.replace(plan, reasons=reasons)
        write_whole(setup.run.plan_file, encode_plan(plan))
        setup.emit(
            LabelsJoined(
                step=step,
                train=tuple(one.name for one in fresh if one.split == "train"),
                val=tuple(one.name for one in fresh if one.split == "val"),
                changed=changed,
                gone=tuple(sorted(gone)),
                num_train=len(train),
                num_val=len(val),
            )
        )
        return replace(
            setup,
            plan=plan,
            train=train,
            val=val,
            unlabelled=bare,
            card=self.make_card(plan, train),
            val_digest=validation_digest(val.samples, plan.fingerprints),
        )

    def _is_on_its_side(
        self, setup: TrainingSetup, sample: Sample, image: str, sides: dict[str, str]
    ) -> bool:
        """Tell whether an image was never on the other side, whatever it was called there."""
        if not image or sides.setdefault(image, sample.split) == sample.split:
            return True
        what = f"is an image that this training knows as one for {_WORDS[sides[image]]}"
        remedy = "Give it another name, or take it away"
        self._say(setup, [str(InputError(str(sample.image), what, remedy))])
        return False

    def _gone(self, setup: TrainingSetup, now: LabelledNow) -> frozenset[str]:
        """Return the images whose labels somebody took away.

        Where all of a source are gone at once its folder is away for a while, and where a part
        would be empty there is nothing to go on with: what is in memory is used then.
        """
        here = {one.source for one in now.samples}
        found: set[str] = set()
        for part in (setup.train, setup.val):
            gone = {o.name for o in part.samples if o.name in now.gone and o.source in here}
            found |= gone if len(gone) < len(part) else set()
        for name in found:
            self._stamps.pop(name, None)
        return frozenset(found)


def _masks_among(samples: Sequence[Sample]) -> set[str]:
    """Return the names of samples whose labels are numbers in a mask."""
    return {one.name for one in samples if one.label is not None and one.label.kind == "mask"}


def _told(project: Project, moves: Moves) -> str:
    """Say which classes became which."""
    names = project.class_names
    return ", ".join(f"{names[before]} is {names[now]} now" for before, now in moves.items())


def _still_bare(unlabelled: Dataset | None, fresh: Sequence[Sample]) -> Dataset | None:
    """Return the images that teach without labels, but for those that have some now."""
    joined = {one.image for one in fresh}
    left = [one for one in unlabelled.samples if one.image not in joined] if unlabelled else []
    return unlabelled.renewed(left, {}) if unlabelled and left else None


_WORDS = {"train": "training", "val": "validation"}


def _sides(plan: Plan) -> dict[str, str]:
    """Return on which side each image is that was ever learned from, by its digest."""
    sides = dict(plan.sides)
    taught = (*plan.train_images, *plan.unlabelled_images)
    for split, names in (("train", taught), ("val", plan.val_images)):
        for name in names:
            known = plan.fingerprints.get(name)
            if known is not None and known.image:
                sides.setdefault(known.image, split)
    return sides


def _with(
    plan: Plan,
    fresh: Sequence[Sample],
    changed: Sequence[str],
    prints: Mapping[str, Fingerprint],
    step: int,
) -> Plan:
    """Return the plan with what joined it; an image that comes back keeps its place."""
    known = {*plan.train_images, *plan.val_images}
    new = [one for one in fresh if one.name not in known]
    names = (*changed, *(one.name for one in fresh))
    return msgspec.structs.replace(
        plan,
        train_images=(*plan.train_images, *(one.name for one in new if one.split == "train")),
        val_images=(*plan.val_images, *(one.name for one in new if one.split == "val")),
        files={**plan.files, **files_of(new)},
        fingerprints={**plan.fingerprints, **{name: prints[name] for name in names}},
        joined={**plan.joined, **dict.fromkeys(names, step)},
    )
