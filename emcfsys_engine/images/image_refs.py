"""A listing of images that stays small: of a million only their names are kept."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from emcfsys_engine.images.micrograph import ImageRef

_NO_PLANE = -1


class ImageRefs(Sequence[ImageRef]):
    """Images in the order of a listing; each becomes an `ImageRef` when it is asked for."""

    @classmethod
    def of(cls, refs: Iterable[ImageRef]) -> "ImageRefs":
        """Return the same images, kept small."""
        return refs if isinstance(refs, ImageRefs) else cls(refs)

    def __init__(self, refs: Iterable[ImageRef] = ()) -> None:
        self._names: list[str] = []
        self._planes = array("q")
        for ref in refs:
            self.add(str(ref.path), ref.plane)

    def add(self, name: str, plane: int | None) -> None:
        """Take one more image, at the end. `name`: its path."""
        self._names.append(name)
        self._planes.append(_NO_PLANE if plane is None else plane)

    def sort(self) -> None:
        """Sort by names; planes of one file stay in the order in which they came."""
        if all(plane == _NO_PLANE for plane in self._planes):
            self._names.sort()
            return
        order = sorted(range(len(self)), key=self._names.__getitem__)
        self._names = [self._names[number] for number in order]
        self._planes = array("q", (self._planes[number] for number in order))

    def chosen(self, numbers: Iterable[int]) -> "ImageRefs":
        """Return some of these images, by their places in line."""
        found = ImageRefs()
        for number in numbers:
            found._names.append(self._names[number])
            found._planes.append(self._planes[number])
        return found

    def files(self) -> Iterator[tuple[int, str, int | None]]:
        """Yield place in line, name and plane of each image."""
        for number, (name, plane) in enumerate(zip(self._names, self._planes, strict=True)):
            yield number, name, None if plane == _NO_PLANE else plane

    def name_of(self, number: int) -> str:
        """Return the path of one image as text."""
        return self._names[number]

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> ImageRef: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageRefs": ...
    def __getitem__(self, index: int | slice) -> "ImageRef | ImageRefs":
        if isinstance(index, slice):
            return self.chosen(range(len(self))[index])
        plane = self._planes[index]
        return ImageRef(path=Path(self._names[index]), plane=None if plane == _NO_PLANE else plane)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - it grows
