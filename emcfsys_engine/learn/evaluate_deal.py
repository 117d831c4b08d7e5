"""Which images an evaluation looks at, and who dealt them out: the model's training, or today."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec

from emcfsys_engine.dataset.deals import Fingerprint, full_name
from emcfsys_engine.dataset.samples import list_samples, model_notes
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import DataFaults, InputError, UnknownClassError
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.inference.ensemble import check_members
from emcfsys_engine.learn.training.dataset import load_item
from emcfsys_engine.learn.training.plan import read_plan
from emcfsys_engine.model_card import SAME_PIXEL, ModelCard, read_card
from emcfsys_engine.project import Naming, Project, Source
from emcfsys_engine.project_tables import Parts
from emcfsys_engine.run.folder import Run


@dataclass(frozen=True, kw_only=True)
class LearnedImages:
    """What is known of the images of one model's training: name -> digest, or no digest."""

    train: dict[str, str]
    val: dict[str, str]

    def has_trained(self, name: str, digest: str, *, by_name: bool) -> bool:
        """Tell whether the model was trained on an image; its pixels say so under any name."""
        known = self.train.get(name) if by_name else None
        return known == "" or (bool(digest) and digest in self._digests)

    @cached_property
    def _digests(self) -> frozenset[str]:
        return frozenset(self.train.values())


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images of an evaluation. `is_own_deal`: they are parted as in the models' training."""

    project: Project  # with the pixel size that they are brought to
    samples: tuple[Sample, ...]
    is_own_deal: bool
    notes: tuple[str, ...] = ()  # a project's other ones are told by its check


def images_of_project(
    models: Sequence[Path], project: Project, split: str, *, as_dealt_now: bool = False
) -> Images:
    """Return the images of one split of a project ("all" for everything labelled).

    The split is that of the models' own training, where that is known and they are the same
    images; `as_dealt_now`: the one that the project would deal today.
    Raises: InputError if the project's classes are not the model's, or the split is empty.
    """
    images = _images_of(models, project, split, as_dealt_now=as_dealt_now)
    notes = [*model_notes(images.samples), *_notes_of_scale(project, read_card(models[0]))]
    return replace(images, notes=tuple(notes))


def _notes_of_scale(project: Project, card: ModelCard) -> list[str]:
    """Say where a project's scale, to which images are brought, is not the model's."""
    own, trained = project.project.pixel_nm, card.pixel_nm
    if own is None or trained is None or abs(own / trained - 1) < SAME_PIXEL:
        return []
    told = f"images are compared at the project's {own:.4g} nm a pixel, the model was trained at"
    return [f"{told} {trained:.4g} nm: a score at another scale is not what it can do"]


def _images_of(
    models: Sequence[Path], project: Project, split: str, *, as_dealt_now: bool
) -> Images:
    card = check_members(models)
    project = msgspec.structs.replace(project, instances=_told_apart(project, card))
    _refuse_other_classes(project, card)
    found = list_samples(project, for_training=False)
    if project.project.pixel_nm is None and card.pixel_nm is not None:
        naming = msgspec.structs.replace(project.project, pixel_nm=card.pixel_nm)
        project = msgspec.structs.replace(project, project=naming)
    seen = [seen_by(file) for file in models]
    labelled = [sample for sample in found.samples if sample.label is not None]
    own = None if as_dealt_now else _own_split(labelled, seen)
    if own is not None:
        mine = _of_split(own, project, split)
        if not _are_others(mine, project, card, {**seen[0].train, **seen[0].val}):
            return Images(project=project, samples=mine, is_own_deal=True, notes=found.notes)
    mine = _of_split(labelled, project, split)
    return Images(project=project, samples=mine, is_own_deal=False, notes=found.notes)


def images_of_folders(models: Sequence[Path], images: str, masks: str) -> Images:
    """Return the images of a folder, with their masks or annotations in another one."""
    card = check_members(models)
    classes = dict(zip(card.classes, card.class_values, strict=True))
    here = Path.cwd() / "project.toml"
    place = str(Path(masks).absolute())
    faults: Exception | None = None
    # The folder's content decides: masks are pictures, annotations are not.
    for kind in ("masks", "annotations"):
        source = Source(
            images=str(Path(images).absolute()),
            masks=place if kind == "masks" else None,
            annotations=place if kind == "annotations" else None,
            split="test",
            unlabelled="skip",
        )
        project = Project(
            file_name=str(here),
            project=Naming(name="evaluation"),
            classes=classes,
            instances=dict.fromkeys(card.instances, "joined"),
            data=(source,),
        )
        try:
            return _images_of(models, project, "test", as_dealt_now=True)
        except (DataFaults, InputError) as error:
            faults = faults or error
    assert faults is not None
    raise _without_project(faults, card)


def _without_project(faults: Exception, card: ModelCard) -> Exception:
    """Return faults with a remedy for labels of other classes that needs no project.toml."""
    if not isinstance(faults, DataFaults):
        return faults
    its = _named(card.classes, card.class_values)
    remedy = f"The model's are {its}: for labels that mean them by others make a project"
    remedy += " whose [data.labels] say so, and evaluate with that"
    return DataFaults(
        [
            UnknownClassError(one.where, one.what, remedy)
            if isinstance(one, UnknownClassError)
            else one
            for one in faults.faults
        ]
    )


def _of_split(samples: Sequence[Sample], project: Project, split: str) -> tuple[Sample, ...]:
    mine = tuple(sample for sample in samples if split in ("all", sample.split))
    if not mine:
        raise InputError(project.file, f"has no labelled images in split {split!r}", "Use --split")
    return mine


def _are_others(
    samples: Sequence[Sample], project: Project, card: ModelCard, known: Mapping[str, str]
) -> bool:
    """Tell whether images only have the names of those that the model saw.

    They are read until one of them is the same: mostly the first one is.
    """
    normaliser = Normaliser(**msgspec.structs.asdict(card.normaliser))
    has_any = False
    for sample in samples:
        if not (before := known.get(sample.name)):
            continue
        prints: dict[str, Fingerprint] = {}
        try:
            load_item(sample, project, normaliser, prints, card.network.in_channels)
        except (DataFaults, InputError):
            continue  # told when it is compared
        if prints[sample.name].image == before:
            return False
        has_any = True
    return has_any


def _refuse_other_classes(project: Project, card: ModelCard) -> None:
    if project.class_names != card.classes or project.class_values != card.class_values:
        its = _named(project.class_names, project.class_values)
        what = f"its classes are {its}, the model's {_named(card.classes, card.class_values)}"
        raise InputError(project.file, what, "Evaluate with a project of the same classes")


def _told_apart(project: Project, card: ModelCard) -> dict[str, Parts]:
    """Return the classes whose objects are compared: those that the model tells apart."""
    return {name: project.instances.get(name, "joined") for name in card.instances}


def seen_by(file: Path) -> LearnedImages:
    """Return what a model was trained and validated on: of its file, or of the run beside it."""
    card = read_card(file)
    if card.trained_on:
        return LearnedImages(train=card.trained_on, val=card.validated_on)
    run = Run(file.parent)
    plan = read_plan(run) if run.plan_file.is_file() else None
    if plan is None or card.run != run.id:
        return LearnedImages(train={}, val={})
    return LearnedImages(
        train=dict.fromkeys(plan.train_images, ""), val=dict.fromkeys(plan.val_images, "")
    )


def _own_split(samples: Sequence[Sample], seen: Sequence[LearnedImages]) -> list[Sample] | None:
    """Return the samples in the parts they had in the models' training; None if that is unknown.

    Several models have one only where they were trained and validated on the same images. What
    they never saw is for testing.
    """
    first = seen[0]
    if any(
        (one.train.keys(), one.val.keys()) != (first.train.keys(), first.val.keys()) for one in seen
    ):
        return None
    result: list[Sample] = []
    for sample in samples:
        names = (sample.name, full_name(sample.source, sample.name, sample.image))
        if any(name in first.train for name in names):
            result.append(replace(sample, split="train"))
        elif any(name in first.val for name in names):
            result.append(replace(sample, split="val"))
        else:
            result.append(replace(sample, split="test"))
    return result if any(one.split != "test" for one in result) else None


def _named(names: Sequence[str], values: Sequence[int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
