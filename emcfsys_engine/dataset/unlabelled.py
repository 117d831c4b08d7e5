"""Images that teach without labels: which they are, and which must not, since others validate.

`unlabelled = "learn"` in a [[data]] table asks for them.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.dataset.deals import full_name
from emcfsys_engine.dataset.follow import drawn_side
from emcfsys_engine.dataset.source_images import group_of, plain_names
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.project import Project

MOST = 200  # images: reading all of a hot folder would take longer than the training


def unlabelled_samples(
    project: Project, labelled: Sequence[Sample], known: Collection[str] | None = None
) -> tuple[tuple[Sample, ...], int]:
    """Return the images that teach without labels, and how many there are to choose them from.

    `labelled`: every sample with labels, those for testing, too. `known`: the names of a run that
    goes on; others are not looked at. Of more than `MOST` images as many are taken, evenly.
    """
    taken = {one.image for one in labelled}
    validated = {one.group for one in labelled if one.split == "val" and one.group}
    found: list[Sample] = []
    for source, table in enumerate(project.data):
        for image, plain in plain_names(project, source) if table.teaches_unlabelled else ():
            sample = Sample(
                image=image,
                label=None,
                source=source,
                split="train",
                name=full_name(source, plain, image),
                group=group_of(table, image, root_of(table.images, project.folder)),
            )
            if image in taken or sample.group in validated:
                continue
            if known is None and project.training.follow and _will_validate(project, sample, plain):
                continue
            taken.add(image)
            found.append(sample)
    if known is not None:
        return tuple(one for one in found if one.name in known), len(known)
    step = max(1.0, len(found) / MOST)
    return tuple(found[int(n * step)] for n in range(min(MOST, len(found)))), len(found)


def _will_validate(project: Project, sample: Sample, plain: str) -> bool:
    """Tell whether an image may validate once somebody labels it while the training runs."""
    table, seed = project.data[sample.source], project.project.seed
    if table.split != "auto" or not table.has_labels:
        return False
    return any(
        drawn_side(replace(sample, name=name), seed) == "val" for name in (plain, sample.name)
    )
