"""What outputs were made of: which image, as it was when, and by which model."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emcfsys_engine.images.output_names import ENDS, Owner, Stems, inside, key_of_file, keys_of


@dataclass(frozen=True, kw_only=True)
class Maker:
    """The model that made masks."""

    model: str  # its run and step
    classes: Mapping[str, int]  # name -> value in a mask

    @property
    def key(self) -> str:
        """Return what stands for it in the lines of files."""
        text = json.dumps([self.model, list(self.classes.items())])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def line(self) -> dict[str, Any]:
        """Return how it is noted."""
        return {"maker": self.key, "model": self.model, "classes": {**self.classes}}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an output was made of, as it was noted when it was written."""

    folder: Path  # of the output
    image: Path
    plane: int | None
    version: int
    content: str  # digest of the image, "" where nobody noted it
    is_outdated: bool  # its image was another one when it was predicted last
    is_changed: bool  # by a person, since it was written
    order: int  # later ones were written later
    maker: Maker | None  # None: an older version wrote it

    @property
    def is_of_model(self) -> bool:
        """Whether it is as a model made it."""
        return self.maker is not None and not self.is_changed


class Origins:
    """What the lines of one output folder say of its files; names are those below it."""

    def __init__(self, folder: Path, stems: Stems) -> None:
        self._folder, self._stems = folder, stems
        self.makers: dict[str, Maker] = {}
        self.contents: dict[str, str] = {}  # file -> digest of the image of its newest line
        self._made_by: dict[str, dict[str, str]] = {}  # file -> its digest -> maker
        self._made_of: dict[str, dict[str, str]] = {}  # file -> its digest -> of the image
        self._of_none: defaultdict[str, set[str]] = defaultdict(set)  # file -> digests: of no image
        self._num_lines = 0
        self._files: defaultdict[str, list[str]] = defaultdict(list)  # by their key
        self._order: dict[str, int] = {}  # file -> which of all lines is its newest
        self._now: dict[str, tuple[int, str]] = {}  # image -> line, and as it was predicted last

    def files_of(self, stems: Iterable[str]) -> list[str]:
        """Return all files that some stems ever had."""
        keys = {key for stem in stems for key in keys_of(stem)}
        return [file for key in sorted(keys) for file in self._files.get(key, ())]

    def learn_maker(self, line: Mapping[str, Any]) -> None:
        """Learn of a model. Raises: KeyError, TypeError, ValueError."""
        classes = {str(name): int(value) for name, value in line["classes"].items()}
        self.makers[str(line["maker"])] = Maker(model=str(line["model"]), classes=classes)

    def learn_file(self, file: str, line: Mapping[str, Any]) -> None:
        """Learn what a file was made of. Raises: KeyError; ValueError for an output elsewhere."""
        digest, content, image = str(line["digest"]), str(line["content"]), str(line["image"])
        if content or image or line.get("maker"):  # a report, of none, lies where a person says
            inside(file)
        if file not in self.contents:
            self._files[key_of_file(file)].append(file)
        self.contents[file] = content
        self._order[file] = self._num_lines = self._num_lines + 1
        by = self._made_by.setdefault(file, {})
        by.pop(digest, None)  # the newest stands last
        by[digest] = str(line.get("maker", ""))
        if not image and not content and not by[digest]:
            self._of_none[file].add(digest)
        elif file in self._of_none:
            self._of_none[file].discard(digest)
        self._made_of.setdefault(file, {})[digest] = content
        if content and image:
            self._now[image] = self._num_lines, content

    def last_of(self, image: str) -> str:
        """Return the digest of an image as it was predicted last; "" where nobody noted it.

        Under whatever path: it may have been moved since.
        """
        _, content = max(self._now.get(path, (0, "")) for path in self._stems.paths_of(image))
        return content

    def key_of(self, file: str, digest: str) -> str:
        """Return what stands for the maker of a file; "" where nobody knows."""
        return self._made_by.get(file, {}).get(digest, "")

    def content_of(self, file: str, digest: str) -> str:
        """Return of which image a file was made; of one that was changed, what was noted last.

        A line may stand before its file has its name: what was noted last need not lie there.
        """
        return self._made_of.get(file, {}).get(digest, self.contents.get(file, ""))

    def is_of_image(self, file: str, digest: str) -> bool:
        """Tell whether a file that is ours was predicted of an image, by its newest line.

        All else was made by another command: annotations by convert, tables, pages.
        """
        return digest not in self._of_none.get(file, ())

    def is_of_none(self, file: str) -> bool:
        """Tell by its name whether another command than a prediction wrote a file."""
        return bool(self._of_none.get(file))

    def order_of(self, file: str, content: str | None = None) -> int:
        """Return which of all lines is a file's newest, from 1; 0 where there is none.

        `content`: 0, too, where that one was made of another image than of this digest.
        """
        is_it = content is None or self.contents.get(file) == content
        return self._order.get(file, 0) if is_it else 0

    def maker_of(self, file: str, digest: str) -> Maker | None:
        """Return the model that made a file; of one that was changed, that made it before."""
        every = self._made_by.get(file, {})
        return self.makers.get(every.get(digest) or next(reversed(every.values()), ""))

    def image_of(self, file: str, images: Collection[str]) -> str:
        """Return of which of some images, which are alike, a file was made; "" for none."""
        owner = self.owner_of(file)
        return owner[0] if owner and owner[0] in images else min(images, default="")

    def owner_of(self, file: str) -> Owner | None:
        """Return whose a file is by its name, a mask's or that of outlines."""
        stem = next((file[: -len(end)] for end in ENDS if file.endswith(end)), file)
        return self._stems.owner_of(stem)

    def of(self, file: str, digest: str) -> Origin | None:
        """Return what a mask, or outlines, were made of; None where nobody noted it."""
        owner = self.owner_of(file)
        if owner is None or file not in self.contents:
            return None
        image, plane, version = owner
        content, now = self.content_of(file, digest), self.last_of(image)
        return Origin(
            folder=self._folder,
            image=Path(image),
            plane=plane,
            version=version,
            content=content,
            is_outdated=bool(content and now) and content != now,
            is_changed=digest not in self._made_by[file],
            order=self._order[file],
            maker=self.maker_of(file, digest),
        )
