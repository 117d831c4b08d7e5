"""Name every fault of a project's images and labels at once, before anything runs."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from emcfsys_engine.annotations.writer import UNLABELLED_NAME
from emcfsys_engine.dataset.facts_cache import cache_of
from emcfsys_engine.dataset.follow import has_both_sides, waiting_words
from emcfsys_engine.dataset.objects import ObjectTruth, read_objects, told
from emcfsys_engine.dataset.samples import (
    Sample,
    first_fold,
    gather,
    read_labels,
    unlabelled_faults,
)
from emcfsys_engine.dataset.unlabelled import unlabelled_samples
from emcfsys_engine.errors import InputError, printable
from emcfsys_engine.images.micrograph import ImageFacts, sides_words
from emcfsys_engine.images.reader import probe
from emcfsys_engine.project import UNLABELLED, Project
from emcfsys_engine.text import how_many
from emcfsys_engine.tools.check_data import (
    Finding,
    colour_findings,
    duplicates,
    image_findings,
    leaking_groups,
    look_alikes,
    pixel_facts,
    scattered_sections,
    shape_findings,
)

SAMPLE_IMAGES = 64  # images whose pixels are looked at
_SAMPLE_SHAPES = 256  # annotated images that are drawn to count their pixels
_NAMED_BARE = 20  # images that are labelled in part, in the report for a terminal
_RARE_SHARE = 5e-4  # of all labelled training pixels
_RARE_IMAGES = 3
_SIZES_DISAGREE = 1.25  # largest over smallest pixel size of one project

DryRun = Callable[[Project], Sequence[Finding]]


class ClassShare(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one split is one class."""

    name: str
    split: Literal["train", "val", "test"]
    pixels: int
    share: float  # of the labelled pixels that were counted
    images: int  # that hold it


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `check` found."""

    project: str
    findings: tuple[Finding, ...]
    classes: tuple[ClassShare, ...]
    images: dict[str, int]  # split -> images with labels
    notes: tuple[str, ...]
    seconds: float
    shapes_drawn: int = 0  # of annotations
    shapes_skipped: int = 0  # each with its reason in the notes
    waits: bool = False  # a training that follows would wait for labels before it begins
    labelled: dict[str, float] = {}  # image -> labelled share, of those whose pixels were counted

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What must be mended before training."""
        return tuple(one for one in self.findings if one.level == "error")

    @property
    def exit_code(self) -> int:
        """0 when training can start, else 2."""
        return 2 if self.errors else 0

    @property
    def text(self) -> str:
        """The report for a terminal."""
        lines = [one.text for one in self.findings]
        if self.classes:
            lines += ["", f"{'class':<24} {'split':<6} {'share':>8} {'pixels':>14} {'images':>7}"]
            lines += [
                f"{c.name:<24} {c.split:<6} {c.share:>8.2%} {c.pixels:>14,} {c.images:>7}"
                for c in self.classes
            ]
        lines += self._of_labelled()
        lines += ["", *(f"note: {note}" for note in self.notes)]
        if self.shapes_drawn or self.shapes_skipped:
            counts = f"{self.shapes_drawn} drawn, {self.shapes_skipped} skipped"
            lines.append(f"shapes: {self.shapes_drawn + self.shapes_skipped} ({counts})")
        counts = ", ".join(f"{count} {split}" for split, count in self.images.items())
        warnings = len(self.findings) - len(self.errors)
        found = f"{how_many(len(self.errors), 'error')}, {how_many(warnings, 'warning')}"
        verdict = f"{found}; {counts or 'no images'}"
        return "\n".join(printable(line) for line in [*lines, verdict])

    def _of_labelled(self) -> list[str]:
        """Say which share of each image is labelled, the least first; whole ones need no line."""
        bare = sorted((share, name) for name, share in self.labelled.items() if share < 1)
        if not bare:
            return []
        lines = ["", f"{'image':<40} {'labelled':>8}"]
        lines += [f"{name:<40} {share:>8.1%}" for share, name in bare[:_NAMED_BARE]]
        rest = len(bare) - _NAMED_BARE
        return [*lines, f"and {rest} more"] if rest > 0 else lines


def check_project(project: Project, *, dry_run: DryRun | None = None) -> CheckReport:
    """Return every fault of a project's data, with file and remedy; raises none of them.

    Headers of all images, pixels of all masks, digests of files of equal size, and the pixels of 64
    images are read. Facts are remembered by size and time of change, so a second check is quick.
    dry_run is called only when there is no error: one training and one validation step.
    """
    start = time.monotonic()
    cache = cache_of(project.file)
    follows = project.training.follow
    gathered = gather(project, for_training=not follows, cache=cache, fold=first_fold(project))
    samples = gathered.samples
    findings = [Finding.of(fault) for fault in gathered.faults]
    findings += _skipped(project, gathered.shapes)
    findings += _ignored_as_class(project)
    facts = _facts(samples)
    seen = pixel_facts(_evenly(samples, SAMPLE_IMAGES), cache)
    findings += _of_training(image_findings(seen), samples)
    findings += colour_findings(project, seen)
    findings += duplicates(samples, cache)
    findings += leaking_groups(samples)
    findings += look_alikes(samples, seen)
    findings += scattered_sections(samples, cache)
    findings += _pixel_sizes(project, samples, facts)
    findings += _mixed_kinds(samples, facts)
    findings += shape_findings(project, samples)
    counted = _counted(project, samples, findings)
    classes = _shares(project, samples, counted)
    labelled = {
        sample.name: round(sum(counted[n].values()) / num_pixels, 4)
        for n, sample in enumerate(samples)
        if n in counted and (num_pixels := _num_pixels(sample, facts))
    }
    findings += _rare(project, classes)
    notes = [*gathered.notes, *_objects_told(project, samples), *_taught_without(project, samples)]
    has_labels = {samples[n].name: any(pixels.values()) for n, pixels in counted.items()}
    findings += [Finding.of(one) for one in unlabelled_faults(project, samples, has_labels)]
    waits = follows and not has_both_sides(samples)
    if waits:
        notes.append(f"{waiting_words(len(samples))}: a training that follows waits for them")
    cache.save()
    if dry_run is not None and not any(one.level == "error" for one in findings):
        findings += dry_run(project)
    findings.sort(key=lambda one: (one.level != "error", one.file))
    return CheckReport(
        project=str(project.file),
        findings=tuple(dict.fromkeys(findings)),
        classes=classes,
        images=dict(Counter(sample.split for sample in samples)),
        notes=tuple(notes),
        shapes_drawn=gathered.shapes[0],
        shapes_skipped=gathered.shapes[1],
        labelled=labelled,
        waits=waits,
        seconds=round(time.monotonic() - start, 2),
    )


def _of_training(findings: Sequence[Finding], samples: Sequence[Sample]) -> list[Finding]:
    """Make errors of images for testing warnings: no training reads them."""
    testing = {str(sample.image) for sample in samples if sample.split == "test"}
    return [
        msgspec.structs.replace(one, level="warning") if one.file in testing else one
        for one in findings
    ]


def _skipped(project: Project, shapes: tuple[int, int]) -> list[Finding]:
    drawn, skipped = shapes
    if not skipped:
        return []
    what = f"{skipped} of {drawn + skipped} shapes are not drawn: the notes say which, and why"
    remedy = "Draw them again as polygons, or take them away; their pixels are unlabelled"
    return [Finding.warn(project.file, what, remedy)]


def _ignored_as_class(project: Project) -> list[Finding]:
    """Warn of a class that annotation tools mean as no class at all."""
    what = f'class "{UNLABELLED_NAME}" is what Labelme calls pixels that nobody labelled'
    remedy = "Take it out of [classes]: its shapes are unlabelled then"
    is_class = UNLABELLED_NAME in project.class_names
    return [Finding.warn(project.file, what, remedy)] if is_class else []


def _evenly(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return up to this many samples, evenly over the list."""
    step = max(1.0, len(samples) / count)
    return [samples[int(n * step)] for n in range(min(count, len(samples)))]


def _facts(samples: Sequence[Sample]) -> dict[Path, ImageFacts]:
    facts: dict[Path, ImageFacts] = {}
    for sample in samples:
        path = sample.image.path
        if path not in facts:
            try:
                facts[path] = probe(path)
            except InputError:
                continue  # named already, when the samples were gathered
    return facts


def _pixel_sizes(
    project: Project, samples: Sequence[Sample], facts: dict[Path, ImageFacts]
) -> list[Finding]:
    sizes = {path: known.pixel_nm[0] for path, known in facts.items() if known.pixel_nm is not None}
    findings: list[Finding] = []
    for path, known in facts.items():
        size = known.pixel_nm
        if size is not None and max(size) / min(size) > 1.02:
            what = f"has pixels that are not square ({sides_words(size)} nm)"
            findings.append(Finding.warn(path, what, "Areas are measured with both sides"))
    if project.project.pixel_nm is not None or len(sizes) < 2:
        return findings
    small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[large] / sizes[small] > _SIZES_DISAGREE:
        what = (
            f"pixel sizes disagree: {sizes[small]:.4g} nm in {small.name}, "
            f"{sizes[large]:.4g} nm in {large.name}"
        )
        remedy = "Say pixel_nm under [project], and all are resampled to it"
        findings.append(Finding.warn(project.file, what, remedy))
    return findings


def _mixed_kinds(samples: Sequence[Sample], facts: dict[Path, ImageFacts]) -> list[Finding]:
    """Warn where one source mixes bit depths, or grey with colour."""
    findings: list[Finding] = []
    for source in sorted({sample.source for sample in samples}):
        kinds = Counter(
            (facts[s.image.path].dtype, "colour" if len(facts[s.image.path].shape) > 2 else "grey")
            for s in samples
            if s.source == source and s.image.path in facts
        )
        if len(kinds) > 1:
            named = ", ".join(f"{count} × {dtype} {kind}" for (dtype, kind), count in kinds.items())
            what = f"mixes kinds of images: {named}"
            remedy = "Each image is normalised by itself; see that they show the same signal"
            findings.append(Finding.warn(f"data.{source}", what, remedy))
    return findings


def _num_pixels(sample: Sample, facts: dict[Path, ImageFacts]) -> int:
    known = facts.get(sample.image.path)
    return known.shape[0] * known.shape[1] if known is not None else 0


def _counted(
    project: Project, samples: Sequence[Sample], findings: list[Finding]
) -> dict[int, dict[str, int]]:
    """Return place of a sample -> class -> pixels; annotations are drawn for a part of them."""
    drawn = [n for n, one in enumerate(samples) if one.pixels is None and one.label is not None]
    step = max(1.0, len(drawn) / _SAMPLE_SHAPES)
    looked_at = {drawn[int(n * step)] for n in range(min(_SAMPLE_SHAPES, len(drawn)))}
    counted = {n: dict(one.pixels) for n, one in enumerate(samples) if one.pixels is not None}
    for n in sorted(looked_at):
        pixels = _drawn_pixels(project, samples[n], findings)
        if pixels is not None:
            counted[n] = pixels
    return counted


def _shares(
    project: Project, samples: Sequence[Sample], counted: dict[int, dict[str, int]]
) -> tuple[ClassShare, ...]:
    """Add up the pixels of every class."""
    pixels: Counter[tuple[str, str]] = Counter()
    images: Counter[tuple[str, str]] = Counter()
    for n, sample in enumerate(samples):
        for name, count in counted.get(n, {}).items():
            pixels[sample.split, name] += count
            images[sample.split, name] += 1
    shares: list[ClassShare] = []
    for split in ("train", "val", "test"):
        total = sum(count for (where, _), count in pixels.items() if where == split)
        if not total:
            continue
        for name in project.class_names:
            count = pixels[split, name]
            shares.append(
                ClassShare(
                    name=name,
                    split=split,
                    pixels=count,
                    share=count / total,
                    images=images[split, name],
                )
            )
    return tuple(shares)


def _drawn_pixels(
    project: Project, sample: Sample, findings: list[Finding]
) -> dict[str, int] | None:
    try:
        shape = probe(sample.image.path).shape
        ids = read_labels(sample, project, (shape[0], shape[1]))
    except InputError as fault:
        findings.append(Finding.of(fault))
        return None
    counts = np.bincount(ids.ravel(), minlength=UNLABELLED + 1)
    return {name: int(counts[value]) for name, value in project.classes.items() if counts[value]}


def _objects_told(project: Project, samples: Sequence[Sample]) -> list[str]:
    """Say how objects are known, of classes that tell them apart, in a part of the images."""
    if not project.instances:
        return []
    truths: dict[str, ObjectTruth] = {}
    for sample in _evenly([one for one in samples if one.label is not None], _SAMPLE_SHAPES):
        with suppress(InputError):  # named already, where its pixels were counted
            shape = probe(sample.image.path).shape
            labels = read_labels(sample, project, (shape[0], shape[1]))
            truths[sample.name] = read_objects(sample, project, labels)
    looked_at = (
        f", in {how_many(len(truths), 'image')} looked at" if len(truths) < len(samples) else ""
    )
    return [told(truths, tuple(project.instances)) + looked_at]


def _taught_without(project: Project, samples: Sequence[Sample]) -> list[str]:
    """Say how many images teach without labels, where some table asks for it."""
    if not any(source.teaches_unlabelled for source in project.data):
        return []
    chosen, number = unlabelled_samples(project, samples)
    return [f"{len(chosen)} of {how_many(number, 'image')} without labels teach, too"]


def _rare(project: Project, classes: Sequence[ClassShare]) -> list[Finding]:
    findings: list[Finding] = []
    most_images = max((one.images for one in classes if one.split == "train"), default=0)
    for one in classes:
        if one.split != "train":
            continue
        if one.images == 0:
            what = f'class "{one.name}" never occurs in the training images: it cannot be learned'
            remedy = "Annotate it, or take it out of [classes]"
        elif one.share < _RARE_SHARE or one.images < min(_RARE_IMAGES, most_images):
            what = (
                f'class "{one.name}" is rare: {one.share:.3%} of the training pixels, '
                f"in {how_many(one.images, 'image')}"
            )
            remedy = "Annotate more of it, or join it with another class under [data.labels]"
        else:
            continue
        findings.append(Finding.warn(project.file, what, remedy))
    return findings
