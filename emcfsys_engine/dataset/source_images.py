"""The images of one [[data]] table: their names, sizes, and groups."""

import re
from collections.abc import Sequence
from pathlib import Path

from emcfsys_engine.annotations.pairing import is_label_name, key_of_file, root_of
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, probe
from emcfsys_engine.project import Project, Source

AS_STORED = (
    "its orientation tag says to turn it, and a TIFF is read as stored. Labels drawn where it is "
    "shown turned (Labelme, CVAT) do not fit: draw on the pictures of convert --to png"
)


def plain_names(project: Project, index: int) -> list[tuple[ImageRef, str]]:
    """Return the images of one [[data]] table with their names, which others may have, too.

    A folder that is no longer there has none.
    """
    source = project.data[index]
    root = root_of(source.images, project.folder)
    try:
        return [(image, name_of(image, root)) for image in images_of(project, source)]
    except InputError:
        return []


def images_of(
    project: Project, source: Source, left_out: list[Path] | None = None
) -> list[ImageRef]:
    """Return the images of a source, without its masks where they lie among or below them.

    `left_out`: what lies there and is no micrograph is added to it. Raises: InputError.
    """
    images = find_images(source.images, project.folder, left_out)
    if source.masks is None:
        return images
    if source.masks == source.images:
        return [image for image in images if not is_label_name(image.path)]
    masks_root = root_of(source.masks, project.folder)
    images_root = root_of(source.images, project.folder)
    if masks_root != images_root and masks_root.is_relative_to(images_root):
        return [image for image in images if not image.path.is_relative_to(masks_root)]
    return images


def sizes_of(
    images: Sequence[ImageRef], faults: list[InputError], turned: list[str]
) -> dict[ImageRef, tuple[int, int]]:
    """Return the rows and columns of images; add the faults of those that cannot be read.

    `turned`: the names of those whose tag says to turn them are added to it.
    """
    sizes: dict[ImageRef, tuple[int, int]] = {}
    known: dict[Path, tuple[int, int] | None] = {}
    for image in images:
        if image.path not in known:
            try:
                facts = probe(image.path)
                known[image.path] = (facts.shape[0], facts.shape[1])
                turned += [image.path.name for note in facts.notes if "orientation tag" in note]
            except InputError as fault:
                faults.append(fault)
                known[image.path] = None
        if (size := known[image.path]) is not None:
            sizes[image] = size
    return sizes


def name_of(image: ImageRef, root: Path) -> str:
    """Return an image's name within its source: its path without the suffix, and its plane."""
    key, plane = key_of_file(image.path, root, image.plane)
    name = key.removeprefix("./")
    return name if plane is None else f"{name}.{plane:04d}"


def group_of(source: Source, image: ImageRef, root: Path) -> str | None:
    """Return what the source's regular expression finds in the path below its folder."""
    if source.group is None:
        return None
    relative = f"{name_of(image, root)}{image.path.suffix}"
    for text in (relative, image.path.name):
        if found := re.search(source.group, text):
            return found[1] if found.groups() else found[0]
    return None
