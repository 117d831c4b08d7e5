"""The data set of a project: images paired with labels, split, and every fault named at once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emcfsys_engine.annotations.draw import annotation_ids
from emcfsys_engine.annotations.layouts import paint_stencils
from emcfsys_engine.annotations.masks import LabelTable, label_table, read_mask
from emcfsys_engine.annotations.pair_shapes import annotation_for
from emcfsys_engine.data_counts import remember_counts
from emcfsys_engine.dataset.deals import Deal, Dealt, full_name, planned, recognised
from emcfsys_engine.dataset.facts_cache import FactsCache, cache_of
from emcfsys_engine.dataset.source_images import plain_names
from emcfsys_engine.dataset.sources import (
    Found,
    LabelRef,
    find_source,
    size_mismatch,
)
from emcfsys_engine.dataset.splits import Sample, Split, assign_fold, assign_splits
from emcfsys_engine.errors import DataFaults, InputError, MaskNumbersError, ProjectError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import Project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.text import few


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Every sample of a project, and what was decided on the way."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...]
    vanished: tuple[str, ...] = ()  # of the deal of a run that goes on

    def of(self, split: Split) -> tuple[Sample, ...]:
        """Return the samples of one split."""
        return tuple(sample for sample in self.samples if sample.split == split)


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What was found, sound or not: for `check`, which goes on where training would stop."""

    samples: tuple[Sample, ...]
    faults: tuple[InputError, ...]
    notes: tuple[str, ...]
    shapes: tuple[int, int] = (0, 0)  # of annotations: drawn, and skipped with a note


def list_samples(project: Project, *, for_training: bool = True, fold: int = 0) -> Samples:
    """Return the images of every [[data]] table, paired with labels and split.

    `fold`: of training.kfold, from 1; it validates, and all but the test images train.
    Sizes come from headers; masks are read once to see that their values are classes.
    Raises: DataFaults with every fault of every source at once, each with its file and remedy.
    """
    gathered = gather(project, for_training=for_training, fold=fold)
    if gathered.faults:
        raise DataFaults(gathered.faults)
    return Samples(samples=gathered.samples, notes=gathered.notes)


def refuse_unresumable(run: Run) -> None:
    """Refuse a training whose images or labels do not let it go on, before anything is changed.

    Raises: DataFaults, RunFolderError.
    """
    project = run.record().project
    deal = planned(run.plan_file)
    if project is not None and deal is not None:
        samples_of(project, deal)


def disagreeing(faults: Sequence[InputError]) -> list[InputError]:
    """Return the faults of masks that are sound, and that nobody can tell the classes of."""
    return [fault for fault in faults if isinstance(fault, MaskNumbersError)]


def samples_of(project: Project, deal: Deal, folds: Mapping[str, int] | None = None) -> Samples:
    """Return the images of a run as they were dealt, whatever came to the project since.

    `folds`: in which each image validates, where the first of them begins.

    What came later is not looked at; what is gone is named; labels are those of today.
    Raises: DataFaults with every fault of the run's own images, or if a part of it is empty.
    """
    faults: list[InputError] = []
    notes: list[str] = []
    cache = cache_of(project.file)
    sources = range(len(project.data))
    images = [
        (index, image, name, project.data[index].split != "test")
        for index in sources
        for image, name in plain_names(project, index)
    ]
    dealt = recognised(deal, images)
    mine = [{image for number, image in dealt.name_of if number == index} for index in sources]
    found = [find_source(project, n, faults, notes, cache, mine[n]) for n in sources]
    cache.save()
    val = frozenset(deal.val)
    order = {name: place for place, name in enumerate(deal.names)}
    samples = [
        replace(
            one,
            name=name,
            split="val" if name in val else "train",
            fold=folds.get(name, 0) if folds else 0,
        )
        for one in _samples(found)
        if (name := dealt.name_of[one.source, one.image])
    ]
    samples.sort(key=lambda one: order[one.name])
    here = {one.name for one in samples}
    vanished = tuple(name for name in deal.names if name not in here)
    dealt = Dealt(name_of=dealt.name_of, vanished=vanished, later=dealt.later)
    if project.training.follow:  # they are named, and what they are in joins once it is mended
        untold = disagreeing(faults)
        notes += [f"Goes on without it: {fault}" for fault in faults if fault not in untold]
        faults = untold
    if not faults:
        faults += _vanished_faults(project, samples)
    if faults:
        raise DataFaults(faults)
    notes = [
        *dealt.notes(later_join=project.training.follow),
        *notes,
        *_class_notes(project, samples),
        *model_notes(samples),
    ]
    return Samples(samples=tuple(samples), notes=tuple(notes), vanished=vanished)


def unlabelled_faults(
    project: Project, samples: Sequence[Sample], labelled: Mapping[str, bool]
) -> list[ProjectError]:
    """Return an error for each part of a training, or fold of one, without a labelled pixel.

    `labelled`: whether a sample has such a pixel, by its name; of others it is not known.
    """
    parts = [(one.split, one.fold) for one in samples if one.split != "test"]
    faults: list[ProjectError] = []
    for part in sorted(set(parts) if not any(fold for _, fold in parts) else set()):
        names = [one.name for one in samples if one.split == part[0]]
        if not any(labelled.get(name, True) for name in names):
            word = "training" if part[0] == "train" else "validation"
            what, remedy = f"the {word} images have no labels", "Label them, or take them out"
            faults.append(ProjectError(project.file, "data", what, f"{remedy} of project.toml"))
    for number in sorted({fold for _, fold in parts if fold}):
        names = [one.name for one in samples if one.fold == number]
        if not any(labelled.get(name, True) for name in names):
            what = f"the images that validate in fold {number} have no labels"
            remedy = "Label them, or lower training.kfold"
            faults.append(ProjectError(project.file, "data", what, remedy))
    return faults


def first_fold(project: Project) -> int:
    """Return 1 where a training of the project is one of folds, else 0."""
    return 1 if project.training.kfold else 0


def gather(
    project: Project,
    *,
    for_training: bool = True,
    cache: FactsCache | None = None,
    fold: int = 0,
) -> Gathered:
    """Return the samples together with every fault, so that all can be named.

    A cache that is given is not saved here.
    """
    faults: list[InputError] = []
    notes: list[str] = []
    known = cache or cache_of(project.file)
    found = [
        find_source(project, index, faults, notes, known) for index in range(len(project.data))
    ]
    assign = assign_fold if fold else assign_splits
    samples = assign(project, _named(found), notes, known, fold)
    if cache is None:
        known.save()
    if for_training and not faults:
        faults += _fold_faults(project, samples) if fold else _split_faults(project, samples)
    notes += [*_class_notes(project, samples), *model_notes(samples)]
    remember_counts(project, sum(one.num_images for one in found), len(samples))
    shapes = (sum(one.shapes[0] for one in found), sum(one.shapes[1] for one in found))
    return Gathered(samples=tuple(samples), faults=tuple(faults), notes=tuple(notes), shapes=shapes)


def read_labels(sample: Sample, project: Project, size_HW: tuple[int, int]) -> np.ndarray:
    """Return the class ids of a sample; 255 is unlabelled.

    One that teaches without labels is all of the lowest class, which marks what may teach.

    Shapes: uint8 H×W.
    Raises: AnnotationError when the labels have another size, or hold what is no class.
    """
    if sample.label is None:
        return np.full(size_HW, min(project.class_values), np.uint8)
    table = label_table(project, project.data[sample.source])
    ids = _read(sample, sample.label, table, project, size_HW)
    if ids.shape != tuple(size_HW):
        raise size_mismatch(sample.label, ids.shape, sample.image, size_HW)
    return ids


def _read(
    sample: Sample,
    label: LabelRef,
    table: LabelTable,
    project: Project,
    size_HW: tuple[int, int],
) -> np.ndarray:
    if label.kind == "shapes":
        return annotation_ids(annotation_for(label.place, sample.image), table, size_HW)
    if label.kind == "mask":
        ref = ImageRef(path=label.path, plane=label.plane)
        return read_mask(ref, table, label.recipe, project.class_values)
    return paint_stencils(label.parts, table, size_HW)


def _named(found: Sequence[Found]) -> list[Sample]:
    """Give every sample a name that no other has: its extension or its source tell it apart."""
    samples = _samples(found)
    seen = Counter(sample.name for sample in samples)
    return [
        sample
        if seen[sample.name] == 1
        else replace(sample, name=full_name(sample.source, sample.name, sample.image))
        for sample in samples
    ]


def _samples(found: Sequence[Found]) -> list[Sample]:
    return [
        Sample(
            image=item.image,
            label=item.label,
            source=index,
            split="train",
            name=item.name,
            group=item.group,
            classes=item.classes,
            pixels=item.pixels,
        )
        for index, source in enumerate(found)
        for item in source.items
    ]


def _fold_faults(project: Project, samples: Sequence[Sample]) -> list[InputError]:
    folds = project.training.kfold
    if {sample.fold for sample in samples} >= set(range(1, folds + 1)):
        return []
    number = sum(sample.split != "test" for sample in samples)
    what = f"{number} images, groups and blocks are too few for {folds} folds"
    return [ProjectError(project.file, "training.kfold", what, "Lower it, or label more images")]


def _vanished_faults(project: Project, samples: Sequence[Sample]) -> list[InputError]:
    faults: list[InputError] = []
    for split, word in (("train", "training"), ("val", "validation")):
        if not any(sample.split == split for sample in samples):
            what = f"none of the run's {word} images is there with its labels"
            faults.append(InputError(project.file, what, "Put them back, or train anew"))
    return faults


def _split_faults(project: Project, samples: Sequence[Sample]) -> list[InputError]:
    faults: list[InputError] = []
    rules = ", ".join(f'data.{n}: split = "{s.split}"' for n, s in enumerate(project.data))
    for split, word in (("train", "training"), ("val", "validation")):
        if any(sample.split == split for sample in samples):
            continue
        what = f"no image is for {word} ({rules}; {len(samples)} images with labels)"
        remedy = (
            f'Give one [[data]] table split = "{split}", or let split = "auto" part at least two '
            "images or groups"
        )
        faults.append(InputError(project.file, what, remedy))
    return faults


def _class_notes(project: Project, samples: Sequence[Sample]) -> list[str]:
    notes: list[str] = []
    for split, word in (("train", "training"), ("val", "validation")):
        part = [sample for sample in samples if sample.split == split]
        here = frozenset().union(*(sample.classes for sample in part))
        for name in project.class_names:
            if part and name not in here:
                notes.append(f'class "{name}" never occurs in the {word} images')
    return notes


def model_notes(samples: Sequence[Sample]) -> list[str]:
    """Say which labels are a model's own: a score on them tells how alike two models are."""
    made = [one.label.path.name for one in samples if one.label and one.label.is_of_model]
    if not made:
        return []
    of_all = f"{len(made)} of {sum(one.label is not None for one in samples)} labels"
    why = "a score on them tells how alike models are, not how right"
    return [f"{of_all} are as a model made them ({few(made, 3)}): {why}"]
