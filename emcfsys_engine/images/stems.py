"""Which names the images of one output folder own: of a million, some 200 bytes each.

Nearly all images are one picture in its first version; only of the others more is kept than what
is theirs.
"""

from collections.abc import Iterator

from emcfsys_engine.images.output_names import RESERVED, keys_of

Owner = tuple[str, int | None, int]  # image, plane, version


class Stems:
    """The stems of images, and whose each of them is; what is learnt later holds."""

    def __init__(self) -> None:
        self._plain: dict[str, str] = {}  # image -> stem, without a plane, in the first version
        self._others: dict[Owner, str] = {}
        self._images: dict[str, str] = {}  # key -> image
        self._owners: dict[str, Owner] = {}  # stem -> owner, where its key alone does not tell
        self._beside: dict[tuple[str, int], list[str]] = {}  # image, version -> more stems
        self._newest: dict[tuple[str, int | None], int] = {}  # where it is not the first

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

    def newest_of(self, image: str, plane: int | None) -> int:
        """Return the newest version that an image has a stem for; 1 where it has none."""
        return self._newest.get((image, plane), 1)

    def is_free(self, stem: str, image: str) -> bool:
        """Tell whether an image may take a stem: none of its names is another's."""
        keys = keys_of(stem)
        return not (keys & RESERVED) and all(self._images.get(key, image) == image for key in keys)

    def take(self, image: str, plane: int | None, version: int, stem: str) -> None:
        """Give a stem to an image."""
        is_plain = plane is None and version == 1 and stem not in self._owners
        if is_plain and self._plain.get(image) == stem and self._images.get(stem) == image:
            return  # told again
        keys = keys_of(stem)
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
