"""How an image's files are called, so that no two images ever share one.

A *stem* is what the names of one image's files begin with: `x` of x.png, x.overlay.png and x.json.
Every name that a stem can lead to has one key (`key_of_file`), which is the stem's (`keys_of`). A
key is given to one image only, so no two images share a file, whatever is written beside a mask.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import msgspec

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
LONGEST_NAME = 255  # bytes, of all usual file systems
_LONGEST_STEM = 238  # leaves room for ".png" and for the name of what is being written
_SHORT_STEM = 150  # what long companions' names begin with
_LONGEST_KIND = 80


def file_beside(stem: str, end: str) -> str:
    """Return the name of a stem's file: `x.overlay.png`; one too long is cut, with a digest."""
    name = f"{stem}{end}"
    if _num_bytes(name) <= LONGEST_NAME:
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
        return frozenset((f"{as_blind_disks_see(folder)}{slash}{_bare(name)}",))
    names = {name}
    if _num_bytes(name) > _SHORT_STEM:
        names.add(_cut(name, _SHORT_STEM))
    return frozenset(f"{as_blind_disks_see(folder)}{slash}{_bare(name)}" for name in names)


def key_of_file(file: str) -> str:
    """Return the key that a file's name leads to: that of its stem."""
    folder, slash, name = file.rpartition("/")
    for end in ENDS:
        if as_blind_disks_see(name).endswith(end):
            name = name[: -len(end)]
            break
    return f"{as_blind_disks_see(folder)}{slash}{_bare(name)}"


def as_blind_disks_see(name: str) -> str:
    """Return what tells a name apart on every file system: some take A for a, or two ä for one."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", name).casefold()


def _bare(name: str) -> str:
    """Cut off what tells companions: a key is the same for all files of one stem."""
    name = as_blind_disks_see(name)
    while "." in name and (shorter := _BESIDE.sub("", name)) != name:
        name = shorter
    return name


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


# Which names the images of one output folder own: of a million, some 200 bytes each.
#
# Nearly all images are one picture in its first version; only of the others more is kept than what
# is theirs.

Owner = tuple[str, int | None, int]  # image, plane, version


def inside(name: str) -> str:
    """Return a name below an output folder, as somebody else may have written it down.

    Raises: ValueError for one that leads out of the folder.
    """
    if leads_out(name):
        raise ValueError(name)
    return name


def leads_out(name: str) -> bool:
    """Tell whether a name below a folder would lead out of it."""
    return name.startswith("/") or ".." in name.split("/")


def line_of_stem(owner: Owner, stem: str) -> dict[str, str | int | None]:
    """Return how a book notes whose a stem is."""
    image, plane, version = owner
    return {"image": image, "plane": plane, "version": version, "stem": stem}


class WantedName(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose files want a name: all planes of a file are named alike."""

    image: str  # its path, as text: a million are asked for
    folder: str  # below the output, "" for itself
    planes: tuple[int | None, ...] = (None,)
    version: int = 1
    content: str = ""  # digest of the image: it is known again when its folder moved

    @property
    def name(self) -> str:
        """The image's name, without its folder."""
        return self.image.rpartition("/")[2]


class Stems:
    """The stems of images, and whose each of them is; what is learnt later holds."""

    def __init__(self) -> None:
        self._plain: dict[str, str] = {}  # image -> stem, without a plane, in the first version
        self._others: dict[Owner, str] = {}
        self._images: dict[str, str] = {}  # key -> image
        self._owners: dict[str, Owner] = {}  # stem -> owner, where its key alone does not tell
        self._beside: dict[tuple[str, int], list[str]] = {}  # image, version -> more stems
        self._newest: dict[tuple[str, int | None], int] = {}  # where it is not the first
        self._before: dict[str, str] = {}  # image -> the path that it had before it was moved

    def of(self, image: str, plane: int | None, version: int) -> str | None:
        """Return the stem of an image's files; None where it has none."""
        if plane is None and version == 1:
            return self._plain.get(image)
        return self._others.get((image, plane, version))

    def all_of(self, image: str, version: int) -> list[str]:
        """Return every stem that planes of an image had, in one version."""
        plain = self._plain.get(image) if version == 1 else None
        beside = self._beside.get((image, version), ())
        return [*beside, *([] if plain is None or plain in beside else [plain])]

    def owner_of(self, stem: str) -> Owner | None:
        """Return whose a stem is."""
        if (owner := self._owners.get(stem)) is not None:
            return owner
        for key in keys_of(stem):
            image = self._images.get(key)
            if image is not None and self._plain.get(image) == stem:
                return image, None, 1
        return None

    def paths_of(self, image: str) -> list[str]:
        """Return an image's path, and those that it had before it was moved."""
        paths = [image]
        while (before := self._before.get(paths[-1])) is not None and before not in paths:
            paths.append(before)
        return paths

    def newest_of(self, image: str, plane: int | None) -> int:
        """Return the newest version that an image has a stem for; 1 where it has none."""
        return self._newest.get((image, plane), 1)

    def is_free(self, stem: str, image: str) -> bool:
        """Tell whether an image may take a stem: none of its names is another's."""
        keys = keys_of(stem)
        return not (keys & RESERVED) and all(self._images.get(key, image) == image for key in keys)

    def take(self, image: str, plane: int | None, version: int, stem: str) -> None:
        """Give a stem to an image. Raises: ValueError for one that leads out of the folder."""
        stem = inside(stem)
        is_plain = plane is None and version == 1 and stem not in self._owners
        if is_plain and self._plain.get(image) == stem and self._images.get(stem) == image:
            return  # told again
        keys = keys_of(stem)
        if any(self._images.get(key, image) != image for key in keys):
            owner = self.owner_of(stem)
            if owner is not None and owner[0] != image:
                self._before[image] = owner[0]
        for key in keys:
            self._keep_told(self._images.get(key, image), image, stem)
        if plane is None and version == 1:
            before = self._plain.get(image, stem)
            if before != stem and self.owner_of(before) == (image, None, 1):
                self._note(before, (image, None, 1))
            elif before != stem:
                self._beside.setdefault((image, 1), []).append(before)
            self._plain[image] = stem
        else:
            self._others[image, plane, version] = stem
        if not (plane is None and version == 1) or stem in self._owners:
            self._note(stem, (image, plane, version))
        if version > self.newest_of(image, plane):
            self._newest[image, plane] = version
        for key in keys:
            self._images[stem if key == stem else key] = image

    def _keep_told(self, other: str, image: str, stem: str) -> None:
        """Note what the key of another image's stem tells no longer."""
        its = self._plain.get(other, stem)
        if other != image and its != stem and self.owner_of(its) == (other, None, 1):
            self._note(its, (other, None, 1))

    def take_over(self, wanted: WantedName, stems: Sequence[str]) -> list[tuple[Owner, str]]:
        """Give an image its stems; return what it takes over from the path that it had before.

        Those are of all versions.
        """
        image, found = wanted.image, list[tuple[Owner, str]]()
        for plane, stem in zip(wanted.planes, stems, strict=True):
            owner = self.owner_of(stem)
            with suppress(ValueError):  # a ledger, too, may be somebody else's
                self.take(image, plane, wanted.version, stem)
            if owner is None or owner[0] == image:
                continue
            for number in range(1, self.newest_of(owner[0], plane) + 1):
                if (its := self.of(owner[0], plane, number)) is not None:
                    self.take(image, plane, number, its)
                    found.append(((image, plane, number), its))
        return found

    def items(self) -> Iterator[tuple[Owner, str]]:
        """Yield all owners with their stems."""
        for image, stem in self._plain.items():
            yield (image, None, 1), stem
        yield from self._others.items()

    def _note(self, stem: str, owner: Owner) -> None:
        self._owners[stem] = owner
        image, _, version = owner
        beside = self._beside.setdefault((image, version), [])
        if stem not in beside:
            beside.append(stem)
