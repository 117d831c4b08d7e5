"""The engine as the interface sees it: images, pictures and checks, made in child processes."""

import contextlib
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import msgspec
from textual.message import Message

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, InputError, printable
from emcfsys_engine.images.walk import FileStamp, names_below, split_glob, stamp_of, stamps_below
from emcfsys_engine.project import load_project
from emcfsys_engine.suffixes import MICROGRAPH_SUFFIXES
from emcfsys_engine.text import how_many
from emcfsys_tui.engine.edit_project import edit_project
from emcfsys_tui.engine.predictions import prediction_folder, rankings
from emcfsys_tui.engine.runs import LOOKING, child_environment, give_way, run_command
from emcfsys_tui.messages import (
    CheckRead,
    FactsRead,
    ImagesRead,
    LabelsChanged,
    PictureRead,
    PointRead,
)
from emcfsys_tui.text import safe_lines
from emcfsys_tui.view_models import (
    CheckState,
    Drawing,
    FindingRow,
    ImageFacts,
    ImageRow,
    Images,
    Picture,
)

_MOST_FINDINGS = 1000
_REST = 50  # times as long as a look at the labels took, before the next one


class PictureSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a picture shall show; the decoder's own words."""

    key: str
    path: str
    project: str = ""
    plane: int | None = None
    label: object = None
    source: int = 0
    mask: str = ""
    model: str = ""
    run: str = ""
    mosaic: int = -1
    view: tuple[float, float, float, float] | None = None
    width: int = 0
    height: int = 0
    point: tuple[int, int] | None = None
    is_strip: bool = False
    drawing: Drawing | None = None
    is_calm: bool = False

    @property
    def is_picture(self) -> bool:
        """Tell whether a picture is wanted, and not what is at a point of it."""
        return self.width > 0 and self.point is None

    def at(self, pixel: tuple[int, int]) -> "PictureSpec":
        """Return a request to know what is there."""
        return msgspec.structs.replace(self, point=pixel)

    def sized(
        self,
        size: tuple[int, int],
        view: tuple[float, float, float, float] | None,
        drawing: Drawing | None,
        *,
        is_calm: bool,
    ) -> "PictureSpec":
        """Return a request for a part of the picture, in so many half-blocks across and down."""
        return msgspec.structs.replace(
            self, width=size[0], height=size[1], view=view, drawing=drawing, is_calm=is_calm
        )


class Decoder:
    """One child that decodes images; only the newest request of each kind is answered."""

    def __init__(self, post: Callable[[Message], object]) -> None:
        self._post = post
        self._child: subprocess.Popen[bytes] | None = None
        self._requests: queue.SimpleQueue[PictureSpec | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def request(self, request: PictureSpec) -> None:
        """Ask for a picture or a point; a message brings it."""
        if self._thread is None:
            # No worker: it ends by itself when the interface does, whatever it is busy with.
            self._thread = threading.Thread(target=self._loop, daemon=True)
            self._thread.start()
        self._requests.put(request)

    def close(self) -> None:
        """End the child."""
        self._requests.put(None)
        child = self._child
        if child is not None:
            with contextlib.suppress(OSError):
                child.kill()

    def _loop(self) -> None:
        while True:
            requests = self._newest()
            if requests is None:
                break
            for request in requests:
                self._try_to_answer(request)
        self._end_child()

    def _try_to_answer(self, request: PictureSpec) -> None:
        try:
            self._answer(request)
        except (OSError, ValueError, msgspec.MsgspecError):
            self._end_child()  # it died of a damaged file: the next request gets a new one
            fault = printable(f"{request.path}: the decoder died of it")
            self._post(PictureRead(Picture(key=request.key, width=0, height=0, fault=fault)))

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            _end(child)

    def _newest(self) -> list[PictureSpec] | None:
        """Return the newest picture that was asked for, and the newest point of the same image."""
        request = self._requests.get()
        picture = point = None
        while request is not None:
            if request.is_picture:
                picture = request
            else:
                point = request
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                if picture is None or point is None or picture.key == point.key:
                    return [one for one in (picture, point) if one is not None]
                return [picture]
        return None

    def _answer(self, request: PictureSpec) -> None:
        child = self._child
        if child is None or child.poll() is not None:
            self._end_child()
            self._child = child = _start(["serve"], stdin=subprocess.PIPE)
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(any_names.encode(request, enc_hook=str) + b"\n")
        child.stdin.flush()
        head: dict[str, Any] = any_names.decode(child.stdout.readline(), Any)
        grey = child.stdout.read(head.pop("num_grey", 0))
        ids = child.stdout.read(head.pop("num_ids", 0))
        rims = child.stdout.read(head.pop("num_rims", 0))
        graphic = child.stdout.read(head.pop("num_graphic", 0))
        point = head.pop("point", "")
        if point:
            self._post(PointRead(point))
        if request.is_picture or head.get("fault"):
            picture = msgspec.convert(head, Picture)
            pixels = {"grey": grey, "ids": ids, "rims": rims, "graphic": graphic}
            self._post(PictureRead(msgspec.structs.replace(picture, **pixels)))


class LabelWatch:
    """Tells when somebody draws, or edits project.toml: what is mended is checked by itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: frozenset[FileStamp] | None = None
        self._next = 0.0  # of many files not every second: looking is not to be felt

    def read(self) -> LabelsChanged | None:
        """Return a message when a file of the labels is another than before."""
        began = time.monotonic()
        if began < self._next:
            return None
        before, self._seen = self._seen, _label_files(self._folder)
        self._next = began + _REST * (time.monotonic() - began)
        return LabelsChanged() if before not in (None, self._seen) else None


def _label_files(folder: Path) -> frozenset[FileStamp]:
    """Return what changes with project.toml, a file of the labels, or what a model says."""
    try:
        project = load_project(folder)
    except EmcfError:
        return frozenset()
    roots = {
        split_glob(source.masks or source.annotations or ".", project.folder)[0]
        for source in project.data
    }
    folders = {root if root.is_dir() else root.parent for root in roots}
    stamps = (stamp for folder in folders for stamp in stamps_below(folder))
    said = map(stamp_of, rankings(folder))
    return frozenset((stamp_of(project.file), *said, *stamps))


def list_images(
    folder: Path,
    post: Callable[[Message], object],
    is_over: Callable[[], bool],
    *,
    names_first: bool = True,
) -> None:
    """Post the project's images: their names at once, then labels and splits, then sizes."""
    try:
        project = load_project(folder)
    except EmcfError as error:
        post(ImagesRead(Images(), is_complete=True, fault=safe_lines(str(error))))
        return
    quick: list[ImageRow] = []
    for number, source in enumerate(project.data):
        split = "" if source.split == "auto" else source.split
        quick += _quick_rows(project.folder, source.images, number, split)
    if names_first:
        post(ImagesRead(Images(quick), is_complete=False))
    child = _start(["list", str(project.file)])
    give_way(child)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if is_over():
                break
            _tell(folder, any_names.decode(line, Any), quick, post)
    finally:
        _end(child)


def check(folder: Path) -> CheckRead:
    """Run the engine's check in a child and return what it found."""
    words = ["check", str(folder), "--json", "--no-dry-run"]
    done = run_command(words, is_look=True, on_start=give_way)
    try:
        report: dict[str, Any] = any_names.decode(done.out, Any)
    except msgspec.DecodeError:
        fault = FindingRow(level="error", file="check", what=done.words or "ended badly", remedy="")
        return CheckRead(CheckState(findings=(fault,), summary="the check could not be made"))
    num = len(report["findings"])
    findings = tuple(
        FindingRow(
            level=one["level"],
            file=one["file"],
            what=one["what"],
            remedy=one.get("remedy", ""),
        )
        for one in report["findings"][:_MOST_FINDINGS]
    )
    errors = sum(one["level"] == "error" for one in report["findings"])
    found = f"{how_many(errors, 'error')}, {how_many(num - errors, 'warning')}"
    summary = f"{found} in {report['seconds']:g} s"
    if num > _MOST_FINDINGS:
        summary += f"; the first {_MOST_FINDINGS:,}"
    return CheckRead(CheckState(findings=findings, summary=summary))


def _start(arguments: list[str], *, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "emcfsys_tui.pictures.decoder", *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**child_environment(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    LOOKING.add(child)
    return child


def _end(child: "subprocess.Popen[bytes]") -> None:
    LOOKING.discard(child)
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _tell(
    folder: Path, document: dict[str, Any], quick: list[ImageRow], post: Callable[[Message], object]
) -> None:
    if "fault" in document:
        post(ImagesRead(Images(quick), is_complete=True, fault=document["fault"]))
    elif "facts" in document:
        post(FactsRead(msgspec.convert(document["facts"], dict[str, ImageFacts])))
    else:
        labelled = [ImageRow(**row) for row in document["images"]]
        seen = {row.path for row in labelled}
        suggested = set(document["suggested"])
        sources = {row.source for row in quick}
        predicted = {one: _names_in(prediction_folder(folder, one)) for one in sources}
        rest = [
            msgspec.structs.replace(
                row,
                state="predicted"
                if row.path in suggested or row.name in predicted[row.source]
                else "none",
            )
            for row in quick
            if row.path not in seen
        ]
        rows = sorted([*labelled, *rest], key=lambda row: (row.source, row.path, row.plane or 0))
        post(ImagesRead(Images(rows), is_complete=True, notes=tuple(document["notes"])))


def _names_in(folder: Path) -> set[str]:
    """Return the names of the masks in a folder of predictions, as images are called."""
    if not folder.is_dir():
        return set()
    start = len(str(folder)) + 1
    return {path[start:].removesuffix(".png") for path in names_below(folder)}


def _quick_rows(base: Path, pattern: str, source: int, split: str) -> list[ImageRow]:
    """Return the image files of a folder or glob by their names alone."""
    folder = base / Path(pattern).expanduser()
    if folder.is_dir():
        start = len(str(folder)) + 1
        return [
            ImageRow(path[start:].rpartition(".")[0], path, None, source, "", split)
            for path in names_below(folder)
            if f".{path.rpartition('.')[2]}".lower() in MICROGRAPH_SUFFIXES
        ]
    found = [
        path for path in sorted(base.glob(pattern)) if path.suffix.lower() in MICROGRAPH_SUFFIXES
    ]
    return [ImageRow(path.stem, str(path), None, source, "", split) for path in found]


class Change(Protocol):
    """A change of one [[data]] table of project.toml."""

    def __call__(self, folder: Path, source: int, answer: str, /) -> str:
        """Make the change, and say so."""
        ...


def set_split(folder: Path, source: int, answer: str) -> str:
    """Write which split a source belongs to.

    Raises: ProjectFaults for a word that is none.
    """

    def change(table: Any) -> None:
        table["split"] = answer

    _edit_source(folder, source, change)
    return f"data.{source}: split = {printable(answer)}"


def assign_label(folder: Path, source: int, answer: str) -> str:
    """Write which class a label of a source means: "label = class".

    Raises: InputError for what is no such line, ProjectFaults for an unknown class.
    """
    label, equals, name = (part.strip().strip('"') for part in answer.partition("="))
    if not equals or not label or not name:
        raise InputError(answer, "is no label = class", "Write it like membran = membrane")

    def change(table: Any) -> None:
        if "labels" not in table:
            table["labels"] = import_module("tomlkit").table()
        table["labels"][label] = name

    _edit_source(folder, source, change)
    return f"data.{source}: {printable(label)} means {printable(name)}"


def label_in(finding: str) -> str:
    """Return the unknown label that a finding speaks of; empty when it speaks of none."""
    found = re.search(
        r'(?:label|value|class) ["\']?([^"\',:;]+?)["\']? (?:is no class|is unknown)', finding
    )
    return found[1].strip() if found else ""


def proposal(folder: Path, label: str) -> str:
    """Return a line that gives a label the class with the nearest name."""
    try:
        names = list(load_project(folder).classes)
    except EmcfError:
        names = []
    near = get_close_matches(label.lower(), names, n=1, cutoff=0.4)
    return f"{label} = {near[0] if near else 'ignore'}"


def convert_labels(folder: Path, source: int, to: str) -> str:
    """Write the labels of a source in another format, into a folder beside them.

    Raises: InputError when the engine refuses.
    """
    project = load_project(folder)
    data = project.data[source]
    labels = data.masks or data.annotations or ""
    out = folder / f"{Path(labels.split('*')[0].rstrip('/')).name or 'labels'}_{to}"
    arguments = ["convert", str(folder / labels), "--to", to, "--out", str(out)]
    arguments += ["--images", str(folder / data.images), "--project", str(project.file)]
    done = run_command(arguments)
    if done.code != 0:
        raise InputError(
            "convert", done.words or "failed", f"Try: emcfsys-engine {' '.join(arguments)}"
        )
    words = f"; {done.words}" if done.words else ""
    return f"{printable(done.out.strip())} → {out.name}{words}"


def _edit_source(folder: Path, source: int, change: Callable[[Any], None]) -> None:
    edit_project(folder, lambda document: change(document["data"][source]))
