"""Which label belongs to which image: by relative path without extension and usual suffixes."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_names import fitting
from emcfsys_engine.images.walk import split_glob
from emcfsys_engine.project import Project, Source

Label = TypeVar("Label")
Key = tuple[str, int | None]  # relative path without extension, and the plane of a stack

_WORDS = r"masks?|msk|labels?|lbl|seg(?:mentations?|mented)?|gt|ground_?truth"
_LABEL_SUFFIX = re.compile(
    # _cp_masks is Cellpose's, _Simple Segmentation ilastik's, _labelIds Cityscapes'.
    rf"[ _.\-]+(?:cp[ _]masks?|simple[ _]segmentation|{_WORDS}|annotations?|manual|labell?ed|"
    r"labelids|rois?|roiset)$",
    re.IGNORECASE,
)
_LABEL_PREFIX = re.compile(rf"(^|/)(?:{_WORDS})[ _.\-]+(?=[^/]+$)", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(r"[ _.\-]+(?:img|image|raw|im|0000)$", re.IGNORECASE)
# Label Studio puts it before a name; 20261128-a.tif begins with its day and is not everybody's "a".
_UPLOAD_PREFIX = re.compile(r"^(?!(?:19|20)\d\d(?:0\d|1[0-2])[0-3]\d-)[0-9a-f]{8}-")
_PACKED = (".gz", ".bz2")


def match(
    images: Sequence[ImageRef],
    root: Path,
    labels: Mapping[Label, Key],
    taken: Collection[ImageRef] = (),
) -> tuple[dict[ImageRef, Label], list[Label]]:
    """Return image -> label, and the labels that belong to no image.

    `taken`: images that have their labels already; a name that is theirs, too, is not unique.

    The relative path must agree; then, in this order, the image's full name (x.dm4 for x.dm4.png),
    the path without suffixes such as _mask, and the file's name alone where it is unique. Plane 12
    of x.mrc goes with plane 12 of a mask stack, or with the file x.0012.
    """
    pairs: dict[ImageRef, Label] = {}
    left = dict(labels)
    for keys_of_image, key_of_label in _RULES:
        found = _unique((key_of_label(key), label) for label, key in left.items())
        # By its name alone day 2's 0001 would get the label of day 3's, were day 1's left aside.
        is_name_alone = keys_of_image is _name_keys
        refs = [*images, *taken] if is_name_alone else [ref for ref in images if ref not in pairs]
        wanted = _unique((key, ref) for ref in refs for key in keys_of_image(ref, root))
        done = {*pairs, *taken}
        for key, image in wanted.items():
            if key in found and image not in done and found[key] in left:
                done.add(image)
                pairs[image] = found[key]
                del left[found[key]]
    return pairs, list(left)


def is_label_name(path: Path) -> bool:
    """Tell whether a file calls itself a label: `x_mask.png`, `mask_x.png`."""
    name = bare_name(path.name)
    return bool(_LABEL_SUFFIX.search(name) or _LABEL_PREFIX.search(name))


def root_of(pattern: str, base: Path) -> Path:
    """Return the folder that relative paths of a source start at: the part before any wildcard."""
    root, wild = split_glob(pattern, base)
    return root if wild or root.is_dir() else root.parent


def picks_some(pattern: str, base: Path) -> bool:
    """Tell whether a pattern picks files by wildcards, rather than naming a folder or file."""
    return bool(split_glob(pattern, base)[1])


def bare_name(name: str) -> str:
    """Return a file's name without its extension: a.ome.tif -> a, x.map.gz -> x, x.0012 stays."""
    stem, dot = _split(name)
    if dot.lower() in _PACKED:
        stem, _ = _split(stem)
    if dot.lower() in (".tif", ".tiff"):
        stem = stem.removesuffix(".ome")
    return stem


def key_of_file(path: Path, root: Path, plane: int | None = None) -> Key:
    """Return a file's path below root without its extension, and its plane."""
    return f"{_folder(path, root)}/{bare_name(path.name)}", plane


def key_of_name(name: str, plane: int | None = None) -> Key:
    """Return the key of an image name that stands inside an annotation file."""
    path = PurePosixPath(name)
    return f"{path.parent}/{bare_name(path.name)}", plane


def _split(name: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.+)(\.(?=[^.]*[a-zA-Z])[a-zA-Z0-9]{1,7})", name, re.DOTALL)
    return (found[1], found[2]) if found else (name, "")


def _folder(path: Path, root: Path) -> str:
    try:
        return path.parent.relative_to(root).as_posix()
    except ValueError:
        return path.parent.as_posix()


def _with_planes(key: str, plane: int | None) -> list[Key]:
    return [(key, None)] if plane is None else [(key, plane), (f"{key}.{plane:04d}", None)]


def _path_keys(ref: ImageRef, root: Path) -> list[Key]:
    return _with_planes(key_of_file(ref.path, root)[0], ref.plane)


def _full_name_keys(ref: ImageRef, root: Path) -> list[Key]:
    return _with_planes(f"{_folder(ref.path, root)}/{ref.path.name}", ref.plane)


def _cut_keys(ref: ImageRef, root: Path) -> list[Key]:
    """Our own outputs' names, where those of the image were too long for them."""
    tail = "" if ref.plane is None else f".{ref.plane:04d}"
    stems = [fitting(name, tail) for name in (bare_name(ref.path.name), ref.path.name)]
    return [(f"{_folder(ref.path, root)}/{stem}", None) for stem in stems]


def _trimmed_keys(ref: ImageRef, root: Path) -> list[Key]:
    return _with_planes(_IMAGE_SUFFIX.sub("", key_of_file(ref.path, root)[0]), ref.plane)


def _name_keys(ref: ImageRef, root: Path) -> list[Key]:
    names = {bare_name(ref.path.name), ref.path.name}
    names |= {_IMAGE_SUFFIX.sub("", name) for name in names}
    names |= {_UPLOAD_PREFIX.sub("", name) for name in names}
    return [key for name in sorted(names) for key in _with_planes(name, ref.plane)]


def _same(key: Key) -> Key:
    return key


def _label_trimmed(key: Key) -> Key:
    return _LABEL_SUFFIX.sub("", key[0]), key[1]


def _label_unprefixed(key: Key) -> Key:
    return _LABEL_PREFIX.sub(r"\1", key[0]), key[1]


def _label_name(key: Key) -> Key:
    return key[0].rpartition("/")[2], key[1]


def _label_name_unprefixed(key: Key) -> Key:
    return _label_name(_label_unprefixed(key))


def _label_name_trimmed(key: Key) -> Key:
    return _label_name(_label_trimmed(key))


_Rule = tuple[Callable[[ImageRef, Path], list[Key]], Callable[[Key], Key]]
_RULES: tuple[_Rule, ...] = (
    (_path_keys, _same),
    (_full_name_keys, _same),
    (_cut_keys, _same),
    (_path_keys, _label_trimmed),
    (_full_name_keys, _label_trimmed),
    (_trimmed_keys, _label_trimmed),
    (_path_keys, _label_unprefixed),
    (_name_keys, _label_name),
    (_name_keys, _label_name_trimmed),
    (_name_keys, _label_name_unprefixed),
)


def _unique(pairs: Iterable[tuple[Key, Label]]) -> dict[Key, Label]:
    """Return key -> item for the keys that only one item has."""
    groups: defaultdict[Key, list[Label]] = defaultdict(list)
    for (name, plane), item in pairs:
        # macOS writes "ü" as two characters: both ways of writing it are the same name.
        groups[unicodedata.normalize("NFC", name), plane].append(item)
    return {key: items[0] for key, items in groups.items() if len(items) == 1}


def source_of(project: Project, place: str, base: Path) -> Source | None:
    """Return the table whose own masks or annotations lie at a place, or have it inside them.

    What its [data.labels] says holds for these: predictions elsewhere hold the classes' values.
    """
    wanted = _resolved(place, base)
    for source in project.data:
        own = source.masks or source.annotations
        if own is not None:
            root = _resolved(own, project.folder)
            if wanted == root or root in wanted.parents:
                return source
    return None


def _resolved(pattern: str, base: Path) -> Path:
    """Return the folder or file that a pattern begins at."""
    whole = base / Path(pattern).expanduser()
    return (whole if whole.exists() else root_of(pattern, base)).resolve()
