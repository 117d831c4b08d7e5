"""What is to be converted: where it lies, what it is called, and how it is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.masks import (
    LabelTable,
    table_of,
)
from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import Source


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labels of one image, to be read when their turn comes. Shapes: read gives uint8 H×W."""

    name: str  # below the output folder, without extension
    path: Path
    image: ImageRef | None
    plane: int | None
    read: Callable[[], np.ndarray]
    # Class ids in, these and the numbers of objects out: None where the labels have none.
    objects: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]] = lambda ids: (ids, None)


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a conversion was given: where the labels are, whose they are, what they are called."""

    source: str
    base: Path
    refs: Sequence[ImageRef]
    image_root: Path
    labels: Mapping[str, str]
    own: Source | None  # the [[data]] table of a project that the labels are of

    @property
    def root(self) -> Path:
        """The folder that relative paths of the labels start at."""
        return root_of(self.source, self.base)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of all images, and the classes that they are read with."""

    items: list[Labelled]
    classes: dict[str, int]
    table: LabelTable


def table_for(classes: Mapping[str, int], given: Given) -> LabelTable:
    """Return what labels mean, as the table of a project that they are of says it."""
    table, own = table_of(classes, given.labels), given.own
    if own is None:
        return table
    return replace(table, ignores_undrawn=own.undrawn == "ignore", reviewed=own.reviewed)
