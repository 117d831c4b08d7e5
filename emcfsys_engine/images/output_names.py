"""How an image's files are called, so that no two images ever share one.

A *stem* is what the names of one image's files begin with: `x` of x.png, x.overlay.png and x.json.
Every name that a stem can lead to has one key (`key_of_file`), which is the stem's (`keys_of`). A
key is given to one image only, so no two images share a file, whatever is written beside a mask.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from emcfsys_engine.regions import OF_REGION

MASK_SUFFIXES = (".ome.zarr", ".ome.tif", ".png", ".tif")  # longest first
LABEL_SUFFIXES = (".json", ".geojson", ".zip")
INSTANCES = "instances"  # the numbers of objects
RESERVED = frozenset({"annotations", "ranking"})  # one file for all images, at the top
ENDS = (*MASK_SUFFIXES, *LABEL_SUFFIXES)
_BESIDE = re.compile(
    r"(?<=.)(?:\.prob-.*|\.(?:overlay|uncertainty|view|instances|ome)|" + OF_REGION + r")$",
    re.DOTALL,
)
_LONGEST_NAME = 255  # bytes, of all usual file systems
_LONGEST_STEM = 238  # leaves room for ".png" and for the name of what is being written
_SHORT_STEM = 150  # what long companions' names begin with
_LONGEST_KIND = 80


def file_beside(stem: str, end: str) -> str:
    """Return the name of a stem's file: `x.overlay.png`; one too long is cut, with a digest."""
    name = f"{stem}{end}"
    if _num_bytes(name) <= _LONGEST_NAME:
        return name
    kind, dot, suffix = end.rpartition(".")
    return f"{_cut(stem, _SHORT_STEM)}{_cut(kind, _LONGEST_KIND)}{dot}{suffix}"


def stem_of(mask_file: Path) -> str:
    """Return what a mask's name and those of its companions begin with."""
    for suffix in MASK_SUFFIXES:
        if mask_file.name.endswith(suffix):
            return mask_file.name[: -len(suffix)]
    return mask_file.stem


def instances_of(mask_file: Path) -> Path:
    """Return the name of what numbers a mask's objects: `x.instances.tif`.

    Those of an OME-Zarr mask are labels inside it: `x.ome.zarr/labels/instances`.
    """
    if is_ome_zarr(mask_file):
        return mask_file / "labels" / INSTANCES
    return mask_file.with_name(file_beside(stem_of(mask_file), ".instances.tif"))


def instances_there(mask_file: Path) -> Path | None:
    """Return what numbers a mask's objects, if anything does: see `instances_of`.

    Beside an OME-Zarr mask of before there may be a TIFF.
    """
    beside = mask_file.with_name(file_beside(stem_of(mask_file), ".instances.tif"))
    places = (instances_of(mask_file), beside)
    return next((place for place in places if place != mask_file and place.exists()), None)


def is_ome_zarr(mask_file: Path) -> bool:
    """Tell by its name whether a mask is an OME-Zarr folder."""
    return mask_file.name.endswith(".ome.zarr")


def stems_for(name: str, plane: int | None, version: int, suffix: str) -> Iterator[str]:
    """Yield names for the files of an image, the best first; each is another one.

    x for x.tif, then x.tif, then x~tif~2, x~tif~3 …; `.0012` tells the plane, `.v2` the version.
    A mask that itself ends with `.ome.tif` takes x for x.ome.tif.
    """
    dot = name.rfind(".")
    first = name[:dot] if 0 < dot < len(name) - 1 else name
    first = first.removesuffix(".ome") if ".ome." in suffix else first
    tail = "" if plane is None else f".{plane:04d}"
    tail += "" if version == 1 else f".v{version}"
    yield fitting(first, tail)
    yield fitting(name, tail)
    number = 2
    while True:
        yield fitting(f"{name.replace('.', '~')}~{number}", tail)
        number += 1


@lru_cache(maxsize=64)  # whoever asks whether a stem is free takes it then
def keys_of(stem: str) -> frozenset[str]:
    """Return the keys of all files that a stem can have; `stem` may lie in a folder."""
    folder, slash, name = stem.rpartition("/")
    if len(name) <= _SHORT_STEM and name.isascii():
        return frozenset((f"{_plain(folder)}{slash}{_bare(name)}",))
    names = {name}
    if _num_bytes(name) > _SHORT_STEM:
        names.add(_cut(name, _SHORT_STEM))
    return frozenset(f"{_plain(folder)}{slash}{_bare(name)}" for name in names)


def key_of_file(file: str) -> str:
    """Return the key that a file's name leads to: that of its stem."""
    folder, slash, name = file.rpartition("/")
    for end in ENDS:
        if _plain(name).endswith(end):
            name = name[: -len(end)]
            break
    return f"{_plain(folder)}{slash}{_bare(name)}"


def _bare(name: str) -> str:
    """Cut off what tells companions: a key is the same for all files of one stem."""
    name = _plain(name)
    while "." in name and (shorter := _BESIDE.sub("", name)) != name:
        name = shorter
    return name


def _plain(text: str) -> str:
    """Some file systems take A for a, and both spellings of ä for one."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", text).casefold()


def fitting(base: str, tail: str) -> str:
    """Return base and tail; of a base that is too long only so much as fits, with a digest."""
    if _num_bytes(base + tail) <= _LONGEST_STEM:
        return base + tail
    return _cut(base, _LONGEST_STEM - _num_bytes(tail)) + tail


def _cut(text: str, num_bytes: int) -> str:
    """Return a text of at most so many bytes; a digest keeps those that were cut apart."""
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) <= num_bytes:
        return text
    digest = hashlib.blake2b(raw, digest_size=4).hexdigest()
    kept = raw[: num_bytes - 1 - len(digest)]
    while kept and raw[len(kept)] & 0xC0 == 0x80:  # not within a character
        kept = kept[:-1]
    return f"{kept.decode('utf-8', 'surrogateescape')}~{digest}"


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
