"""What this program wrote into an output folder: names that images own, and digests of files.

`.emcfsys/outputs.jsonl` beside the outputs, one line a fact, only ever appended to. A file whose
digest does not stand there was written by somebody else, or changed by a person: nothing replaces
it. A line is written before its file has its name, so that a kill leaves no file unknown.
"""

import errno
import fcntl
import os
import threading
from array import array
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

from emcfsys_engine import any_names
from emcfsys_engine.files import next_lines, open_own, reading_own
from emcfsys_engine.images.copied_folders import is_elsewhere
from emcfsys_engine.images.origins import Maker, Origin, Origins
from emcfsys_engine.images.output_names import (
    MASK_SUFFIXES,
    Stems,
    WantedName,
    as_blind_disks_see,
    instances_of,
    leads_out,
    line_of_stem,
    stems_for,
)
from emcfsys_engine.images.own_files import (
    Contents,
    digest_of_output,
    identity_of,
    is_content,
    remove_ours,
)

FOLDER = ".emcfsys"
_LINES_AT_ONCE = 10_000  # of a book, written together
# What a damaged line raises: its files count as somebody else's.
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
_Plane = int | None


class OutputBook:
    """The names and digests of one output folder; several processes and threads may use it.

    Raises: OSError where it cannot be read or written.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.file = book_of(out)
        self._read_to = 0
        self._inode = 0
        self._place = identity_of(out)
        self._one_thread = threading.Lock()
        self.contents = Contents()  # of images, as they were when their files were last looked at
        self._forget()
        self._read_first()

    def stems(self, wanted: Sequence[WantedName], suffix: str) -> list[tuple[str, ...]]:
        """Return the stem of each plane of each image, below the output folder.

        An image that has names keeps them. Of new ones that would share a name, each keeps its
        extension; so does one that comes later. The names are on the disk when this returns.
        """
        self.name_all(wanted, suffix)
        known = [self._known(one) for one in wanted]
        return [one for one in known if one is not None]

    def name_all(self, wanted: Sequence[WantedName], suffix: str) -> None:
        """Give names to images as `Stems` does, of which a million may be too many to hold."""
        if all(self._known(one) is not None for one in wanted):
            return
        with self._locked():
            self._read_new()
            new, lengths, firsts = array("Q"), array("Q"), array("q")
            for number, one in enumerate(wanted):
                if self._known(one) is None:
                    new.append(number)
                    lengths.append(len(one.name))
                    is_moved = self._moved(one) is not None
                    firsts.append(0 if is_moved else _first_of(one, suffix))
            shared = _met_twice(firsts)
            # Shorter names first: of b.tif and b.overlay.tif the former has b.overlay.png.
            order = sorted(range(len(new)), key=lengths.__getitem__)
            claims = (
                self._claims(one, self._moved(one) or self._free(one, suffix, shares=shares))
                for one, shares in ((wanted[new[n]], firsts[n] in shared) for n in order)
            )
            self._append(chain.from_iterable(claims))
        with suppress(OSError):  # a disk that fails says so when the files are written
            self.sync()

    def stem_of(self, image: str, plane: _Plane, version: int) -> str | None:
        """Return the stem of one plane of an image; None where it has no names."""
        return self._stems.of(image, plane, version)

    def adopt(self, named: Iterable[tuple[WantedName, Sequence[str]]]) -> None:
        """Take over the names that a ledger gives; those of images that were moved are noted."""
        moved = [one for wanted, stems in named for one in self._stems.take_over(wanted, stems)]
        if moved:
            with suppress(OSError), self._locked():  # else the next start does
                self._append(line_of_stem(owner, stem) for owner, stem in moved)

    @property
    def is_begun(self) -> bool:
        """Tell whether anything was written into this folder before."""
        return bool(self._digests)

    def version_of(self, image: str, plane: _Plane) -> int:
        """Return the newest version that an image has names for; 1 where it has none."""
        return self._stems.newest_of(image, plane)

    def has(self, place: Path, content: str = "") -> bool:
        """Tell whether a file, or a folder of ours, is as this program wrote it.

        `content`: and whether it was made of an image of this digest.
        """
        digests = self._digests.get(self._below(place))
        if digests is None:
            return False
        made_of = digests.get(digest_of_output(place))
        return made_of is not None and (not content or content in made_of)

    def has_now(
        self, place: Path, *, of_image: bool | None = None, lies_at: Path | None = None
    ) -> bool:
        """Tell the same of a file that another process may have written a moment ago.

        `of_image`: as a prediction, or else as another command: neither replaces the other's.
        `lies_at`: where it was taken aside to, and is looked at.
        """
        file, digest = self._below(place), digest_of_output(lies_at or place)
        if digest not in self._digests.get(file, {}):
            self.refresh()
        is_ours = digest in self._digests.get(file, {})
        return is_ours and of_image in (None, self._origins.is_of_image(file, digest))

    def made_of(self, place: Path) -> str:
        """Return of which image a file was made that is as this program wrote it: its digest.

        It is "" for any other file, and where nobody noted it.
        """
        digest = digest_of_output(place)
        ours = digest in self._digests.get(self._below(place), {})
        return self._origins.content_of(self._below(place), digest) if ours else ""

    def is_known(self, place: Path) -> bool:
        """Tell whether this program ever wrote a file of this name."""
        return self._below(place) in self._digests

    def last_content(self, place: Path) -> str:
        """Return of which image the newest file of this name was made: its digest, or ""."""
        return self._origins.contents.get(self._below(place), "")

    def predicted_last(self, image: str) -> str:
        """Return the digest of an image as it was predicted last, to the end or not; or ""."""
        return self._origins.last_of(image)

    def maker_of(self, place: Path) -> Maker | None:
        """Return the model that made a file; of one that was changed, that made it before."""
        return self._origins.maker_of(self._below(place), digest_of_output(place))

    def origin_of(self, place: Path) -> Origin | None:
        """Return what a mask, or outlines, were made of; None where this program never wrote it.

        A mask counts as changed, too, where a person changed the numbers of its objects.
        """
        found = self._origins.of(self._below(place), digest_of_output(place))
        if found is None or found.is_changed or not place.name.endswith(MASK_SUFFIXES):
            return found
        numbers = instances_of(place)
        is_changed = self.is_known(numbers) and numbers.is_file() and not self.has(numbers)
        return replace(found, is_changed=is_changed)

    def order_of(self, place: Path) -> int:
        """Return a number that is higher for a file that was written later; 0 for one unknown."""
        return self._origins.order_of(self._below(place))

    def masks(self, *, predicted: bool = True) -> list[Path]:
        """Return masks, and pictures beside them, that are there; or those of other commands."""
        names = [one for one in self._digests if predicted or self._origins.is_of_none(one)]
        names = [one for one in names if one.endswith(MASK_SUFFIXES) and not leads_out(one)]
        return [place for name in names if (place := self.out / name).exists()]

    def retire(self, wanted: WantedName) -> tuple[list[Path], list[Path]]:
        """Remove what was made of an image as it was before: of planes that it lost, companions.

        Only what nobody changed goes. Return the files that are gone, and those that a person
        changed, which stay. Raises: OSError.
        """
        stems = self._stems.all_of(wanted.image, wanted.version)
        every = self._origins.files_of(stems)
        contents = [(file, self._origins.contents[file]) for file in every]
        # Digests of another length are of another kind: they do not tell.
        files = [
            self.out / file
            for file, content in contents
            if len(content) == len(wanted.content) and content != wanted.content
        ]
        there = sorted(file for file in set(files) if os.path.lexists(file))
        gone = [file for file in there if self.remove(file)]
        return gone, [file for file in there if file not in gone and os.path.lexists(file)]

    def remove(self, place: Path, *, of_image: bool | None = None) -> bool:
        """Remove a file, or folder, that `has_now`; tell whether it is gone. Raises: OSError."""
        return remove_ours(place, lambda at: self.has_now(place, of_image=of_image, lies_at=at))

    def is_made_of(self, place: Path, image: Path, content: str) -> bool:
        """Tell whether the newest file of this name was made of an image that is as it was.

        `content`: its digest now; what an older version noted is compared, too.
        """
        try:
            return is_content(self.last_content(place), image, content)
        except OSError:
            return False

    def note_contents(self) -> None:
        """Write down which images were looked at: as long as they stay, none is read again."""
        if lines := self.contents.take_new():
            with suppress(OSError):
                self.add(lines)

    def add(self, facts: Iterable[Mapping[str, Any]]) -> None:
        """Write facts down that somebody else gathered. Raises: OSError."""
        with self._locked():
            self._read_new()
            self._append(facts)

    def is_copy_of_output(self, file: Path, size: int) -> bool:
        """Tell whether a file is, byte by byte, one that this program wrote into this folder."""
        return size in self._sizes and digest_of_output(file) in self._sizes[size]

    def note(
        self,
        files: Mapping[Path, str],
        *,
        image: Path | None = None,
        content: str = "",
        maker: Maker | None = None,
    ) -> None:
        """Write down what is about to get its name: final place -> digest (`digest:size`).

        Raises: OSError, also for what has no digest: it was gone when it was read again, and would
        count as a person's if it came back.
        """
        if lost := [place for place, digest in files.items() if not digest]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(lost[0]))
        of = {"image": str(image or ""), "content": content}
        if maker is not None:
            of["maker"] = maker.key
        lines = [
            {"file": self._below(place), "digest": digest, **of} for place, digest in files.items()
        ]
        is_new = maker is not None and maker.key not in self._origins.makers
        self.add([*([maker.line] if maker and is_new else []), *lines, *self.contents.take_new()])

    def refuse_gone(self) -> None:
        """Check that the output folder is the one it was: its disk may have left.

        It is made if it was not there from the beginning.

        Raises: OSError (ESTALE) if it is gone, or another lies there now.
        """
        now = identity_of(self.out)
        if self._place is None:
            self.out.mkdir(parents=True, exist_ok=True)
            self._place = identity_of(self.out)
        elif now != self._place:
            what = "its folder is gone" if now is None else "another folder lies in its place"
            raise OSError(errno.ESTALE, f"{what}: is its disk mounted?", str(self.out))

    def write_again(self) -> None:
        """Write everything that is known into a new file: somebody removed the old one."""
        self._place = identity_of(self.out)
        stems = list(self._stems.items())
        written = [
            (file, digest, content, self._origins.key_of(file, digest))
            for file, digests in self._digests.items()
            for digest, contents in digests.items()
            for content in sorted(contents)
        ]
        # The newest of each file are the last, in their order: an image is as its last line says.
        written.sort(key=lambda one: self._origins.order_of(one[0], one[2]))
        self.add(
            [maker.line for maker in self._origins.makers.values()]
            + [
                {"image": image, "plane": plane, "version": version, "stem": stem}
                for (image, plane, version), stem in stems
            ]
            + [
                {
                    "file": file,
                    "digest": digest,
                    "image": self._origins.image_of(file, self._made_of.get(content, ())),
                    "content": content,
                    "maker": maker,
                }
                for file, digest, content, maker in written
            ]
            + self.contents.lines()
        )
        self.sync()

    def refresh(self) -> None:
        """Read what other processes noted meanwhile."""
        with self._one_thread, suppress(FileNotFoundError):
            self._read_new()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        with suppress(FileNotFoundError):
            descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _known(self, wanted: WantedName) -> tuple[str, ...] | None:
        image, version = wanted.image, wanted.version
        stems = [self._stems.of(image, plane, version) for plane in wanted.planes]
        return tuple(stem for stem in stems if stem is not None) if all(stems) else None

    def _moved(self, wanted: WantedName) -> tuple[str, ...] | None:
        """Return the names of the same image at another path: it was moved, or copied with all."""
        for old in self._made_of.get(wanted.content, ()) if wanted.content else ():
            if Path(old).name == wanted.name and is_elsewhere(old, wanted.image, self.file):
                stems = [self._stems.of(old, p, wanted.version) for p in wanted.planes]
                kept = tuple(stem for stem in stems if stem is not None)
                folders = {stem.rpartition("/")[0] for stem in kept}
                if len(kept) == len(stems) and folders == {wanted.folder}:
                    return kept
        return None

    def _free(self, wanted: WantedName, suffix: str, *, shares: bool) -> tuple[str, ...]:
        prefix = f"{wanted.folder}/" if wanted.folder else ""
        every = [stems_for(wanted.name, plane, wanted.version, suffix) for plane in wanted.planes]
        image, version = wanted.image, wanted.version
        for number, names in enumerate(zip(*every, strict=True)):
            stems = tuple(prefix + name for name in names)
            # A stack that grew keeps the names that its planes have.
            pairs = zip(wanted.planes, stems, strict=True)
            has = any(self._stems.of(image, plane, version) == stem for plane, stem in pairs)
            if (number or has or not shares) and all(
                self._stems.is_free(one, image) for one in stems
            ):
                return stems
        raise AssertionError("names never end")

    def _claims(self, wanted: WantedName, stems: Sequence[str]) -> Iterator[dict[str, Any]]:
        for plane, stem in zip(wanted.planes, stems, strict=True):
            image = wanted.image
            if self._stems.of(image, plane, wanted.version) == stem:
                continue
            self._stems.take(image, plane, wanted.version, stem)
            yield line_of_stem((image, plane, wanted.version), stem)

    def _below(self, place: Path) -> str:
        text, top = str(place), f"{self.out}/"
        if text.startswith(top) and "/.." not in text:  # a path that is asked for a million times
            return text[len(top) :]
        return os.path.relpath(place, self.out)

    def _forget(self) -> None:
        self._stems = Stems()
        self._origins = Origins(self.out, self._stems)
        self._digests: dict[str, dict[str, set[str]]] = {}  # file -> digest -> of images
        self._made_of: dict[str, set[str]] = {}
        self._sizes: dict[int, set[str]] = {}

    def _read_first(self) -> None:
        with suppress(FileNotFoundError):
            self._read_new()

    def _read_new(self) -> None:
        """Read what others wrote meanwhile; a file that was replaced is read from its start."""
        with reading_own(self.file) as stream:
            status = os.fstat(stream.fileno())
            if status.st_ino != self._inode or status.st_size < self._read_to:
                self._read_to, self._inode = 0, status.st_ino
            stream.seek(self._read_to)
            while lines := next_lines(stream):
                self._read_to = stream.tell()
                self._learn_all(lines)

    def _learn_all(self, lines: bytes) -> None:
        for line in any_names.decode_lines(lines, dict):
            with suppress(*_DAMAGED):
                self._learn(line)

    def _learn(self, line: Mapping[str, Any]) -> None:
        if "seen" in line:
            self.contents.learn(line)
            return
        if "stem" in line:
            plane = None if line["plane"] is None else int(line["plane"])
            self._stems.take(str(line["image"]), plane, int(line["version"]), str(line["stem"]))
            return
        if "classes" in line:
            self._origins.learn_maker(line)
            return
        file, digest = str(line["file"]), str(line["digest"])
        content, image = str(line["content"]), str(line["image"])
        size = int(digest.rpartition(":")[2])
        self._origins.learn_file(file, line)  # refuses one that leads out of the folder
        self._digests.setdefault(file, {}).setdefault(digest, set()).add(content)
        if content and image:
            self._made_of.setdefault(content, set()).add(image)
        self._sizes.setdefault(size, set()).add(digest)

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines, and learn them; what a full disk cut is taken away again."""
        every = iter(lines)
        some = list(islice(every, _LINES_AT_ONCE))
        if not some:
            return
        descriptor = open_own(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, is_shared=True)
        try:
            while some:
                self._append_some(descriptor, some)
                some = list(islice(every, _LINES_AT_ONCE))
        finally:
            os.close(descriptor)

    def _append_some(self, descriptor: int, lines: Sequence[Mapping[str, Any]]) -> None:
        data = b"".join([any_names.encode(line) + b"\n" for line in lines])
        status = os.fstat(descriptor)
        end = status.st_size
        now = end + append_whole(descriptor, data, self.file)
        if (self._inode, self._read_to, os.lseek(descriptor, 0, os.SEEK_CUR)) == (
            status.st_ino,
            end,
            now,
        ):
            self._read_to = now  # nobody wrote between: what was written is what was given
            for line in lines:
                with suppress(*_DAMAGED):
                    self._learn(line)
        else:
            self._read_new()

    @contextmanager
    def _locked(self) -> Generator[None]:
        with self._one_thread:
            self.refuse_gone()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with opened_alone(self.file):
                yield


def book_of(out: Path) -> Path:
    return out / FOLDER / "outputs.jsonl"


@contextmanager
def opened_alone(book: Path) -> Generator[int]:
    """Open a book to append to it, while no other process does."""
    descriptor = open_own(book, os.O_RDWR | os.O_CREAT | os.O_APPEND, is_shared=True)
    try:
        with suppress(OSError):  # some networks have no locks: lines are appended whole
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def append_whole(descriptor: int, lines: bytes, file: Path) -> int:
    """Append lines to a book, and return by how many bytes it grew.

    What a full disk cut is taken away again. Raises: OSError.
    """
    end = os.fstat(descriptor).st_size
    if end > 0 and os.pread(descriptor, 1, end - 1) != b"\n":
        lines = b"\n" + lines  # a kill tore the last line
    if os.write(descriptor, lines) < len(lines):
        os.ftruncate(descriptor, end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    return len(lines)


def _first_of(wanted: WantedName, suffix: str) -> int:
    """Return what tells the name that an image would have if no other wanted it.

    Where two names have one number by chance, each keeps its extension.
    """
    first = next(stems_for(wanted.name, None, wanted.version, suffix))
    return hash((as_blind_disks_see(first), wanted.folder))


def _met_twice(numbers: Iterable[int]) -> set[int]:
    """Return the numbers that are there more than once."""
    ordered = sorted(numbers)
    return {one for one, other in pairwise(ordered) if one == other}
