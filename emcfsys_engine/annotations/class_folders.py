"""Masks in one folder a class: which folders those are, and what their stencils paint."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.masks import LabelTable, read_stencil
from emcfsys_engine.annotations.pairing import Key, key_of_file
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images
from emcfsys_engine.images.writers import is_companion
from emcfsys_engine.project import UNLABELLED

MasksByClass = dict[str, dict[Key, ImageRef]]


def masks_by_class(root: Path) -> MasksByClass:
    """Return folder -> its masks by name, where several folders below root hold masks of one name.

    Elsewhere it is empty: folders of a split, or of samples, hold masks of different names.
    """
    if not root.is_dir():
        return {}
    found: MasksByClass = {}
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        masks = [one for one in find_images(".", folder) if not is_companion(one.path)]
        if masks:
            found[folder.name] = {key_of_file(mask.path, folder): mask for mask in masks}
    names = [key for masks in found.values() for key in masks]
    return found if len(names) > len(set(names)) else {}


def paint_stencils(
    parts: Sequence[tuple[str, Path]], table: LabelTable, size_HW: tuple[int, ...]
) -> np.ndarray:
    """Return the class ids that (folder's name, mask) paint, later ones over earlier ones.

    Shapes: uint8 H×W; a mask of another size is returned as it is, for the caller to name.
    """
    ids = np.full(size_HW, table.undrawn, np.uint8)
    for name, path in parts:
        class_id = table.of_name(name)
        stencil = read_stencil(path)
        if stencil.shape != tuple(size_HW):
            return stencil.astype(np.uint8)
        ids[stencil] = UNLABELLED if class_id is None else class_id
    return ids
