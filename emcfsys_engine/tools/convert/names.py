"""What the labels and pictures of each image are called below the output folder."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from emcfsys_engine.annotations.pairing import Key, key_of_file
from emcfsys_engine.images.micrograph import ImageRef


def output_names(refs: Sequence[ImageRef], root: Path) -> list[str]:
    """Return a name below the output folder for each image: x, x.0012, or x.dm4 on collision.

    No two are alike, also where a file system takes A for a.
    """
    planes: dict[Path, list[int | None]] = {}
    for ref in refs:
        planes.setdefault(ref.path, []).append(ref.plane)
    stems = {path: key_of_file(path, root)[0].removeprefix("./") for path in planes}
    owners = Counter(stem.casefold() for stem in stems.values())
    taken: set[str] = set()
    found: dict[tuple[Path, int | None], str] = {}
    for path in sorted(planes, key=lambda path: len(path.name)):
        bases = _bases(path, stems[path], is_alone=owners[stems[path].casefold()] == 1)
        every = (
            [base if plane is None else f"{base}.{plane:04d}" for plane in planes[path]]
            for base in bases
        )
        names = next(names for names in every if taken.isdisjoint(map(str.casefold, names)))
        taken.update(map(str.casefold, names))
        found.update(zip([(path, plane) for plane in planes[path]], names, strict=True))
    return [found[ref.path, ref.plane] for ref in refs]


def _bases(path: Path, stem: str, *, is_alone: bool) -> Iterator[str]:
    """Yield names for one image, the best first; each is another one."""
    whole = str(Path(stem).parent / path.name)
    first = [stem, whole] if is_alone else [whole]
    return itertools.chain(first, (f"{whole}~{number}" for number in itertools.count(2)))


def name_of_key(key: Key) -> str:
    """Return the name of labels whose image is not known."""
    name, plane = key
    name = name.removeprefix("./").lstrip("/")
    return name if plane is None else f"{name}.{plane:04d}"
