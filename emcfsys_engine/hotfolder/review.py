"""What people say of a hot folder's masks and failed images, and what they are shown."""

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine.errors import EmcfError, InputError, OutputError
from emcfsys_engine.files import open_own
from emcfsys_engine.hotfolder import groups, journal, judged, kept_words, tables
from emcfsys_engine.hotfolder.groups import Group
from emcfsys_engine.hotfolder.journal import Act, Verified, act_of
from emcfsys_engine.hotfolder.judged import Judged, Word
from emcfsys_engine.hotfolder.ledger import read_ledger
from emcfsys_engine.hotfolder.ledger_file import (
    connect,
    connect_to_read,
    decoded,
    explained,
    ledger_file,
    ledger_in,
)
from emcfsys_engine.hotfolder.places import FOLDER
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import instances_of
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.settings import nearest
from emcfsys_engine.text import how_many

_MARK = "retry"
_ALL = ("", "pass", "review", "fail")


def read_verdicts(
    output: Path, states: Iterable[str] = ("review", "fail"), paths: Iterable[str] = ()
) -> tuple[dict[str, int], list[Judged]]:
    """Return how many images have which verdict, and those of `states` or of `paths`.

    There are none where there is no ledger, or one of an older version; nothing is locked.
    Raises: InputError for a ledger that cannot be read.
    """
    states, paths = list(states), list(paths)
    with reading(output) as db:
        if db is None:
            return {}, []
        found = judged.read_judged(db, states=states, paths=paths) if states or paths else ()
        return judged.count_verdicts(db), list(found)


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """How a hot folder's images are, at one moment."""

    states: dict[str, int] = {}  # how many files are done, trying, failed and skipped
    verdicts: dict[str, int] = {}
    groups: tuple[Group, ...] = ()  # as they were judged when the watch last had time
    recipe: str = ""  # id of the one that is followed; empty: none
    judged: tuple[Judged, ...] = ()  # images that were asked for


def overview(output: Path, paths: Iterable[str] = ()) -> Overview:
    """Return how a hot folder's images are, and how those of `paths` were judged.

    All is empty where there is no ledger, and what one of an older version does not know.
    Raises: InputError for a ledger that cannot be read.
    """
    paths = list(paths)
    with reading(output) as db:
        if db is None:
            return Overview()
        db.execute("BEGIN")  # a watch that writes meanwhile changes no count between two
        return Overview(
            states=tables.count_states(db),
            verdicts=judged.count_verdicts(db),
            groups=tuple(groups.read_groups(db)),
            recipe=groups.recipe_followed(db),
            judged=tuple(judged.read_judged(db, paths=paths)) if paths else (),
        )


def refuse_to_make_anew(output: Path) -> None:
    """Refuse to make masks anew beside a hot folder's ledger: it tells of those that are there.

    Its numbers and verdicts, and what people said of them, would go by as another mask's.
    Raises: InputError.
    """
    if not overview(output).states.get("done"):
        return
    what = "has the masks of a hot folder, whose ledger has their numbers and verdicts"
    raise InputError(output, what, "Predict them again into another folder with --out")


def groups_of(output: Path) -> list[Group]:
    """Return how each group was judged when the watch last had time for that.

    Raises: InputError for a ledger that cannot be read.
    """
    with reading(output) as db:
        return [] if db is None else groups.read_groups(db)


def recipe_settings(output: Path) -> tuple[str, dict[str, Any]]:
    """Return the id of the recipe that is followed, and what it says; ("", {}) without one."""
    with reading(output) as db:
        return ("", {}) if db is None else groups.settings_followed(db)


def number_unjudged(output: Path) -> int:
    """Return how many images have masks and no verdict: no limits ever saw their numbers.

    Raises: InputError for a ledger that cannot be read.
    """
    with reading(output) as db:
        return 0 if db is None else judged.count_unjudged(db)


def number_unmeasured(output: Path) -> int:
    """Return how many images wait for the numbers of what a person corrected.

    Raises: InputError for a ledger that cannot be read.
    """
    with reading(output) as db:
        return 0 if db is None else len(kept_words.waiting_for_measure(db))


def verify_journal(output: Path) -> Verified:
    """Look through the journal, and compare it with the head that the ledger noted.

    Raises: InputError, OutputError where one of them cannot be read.
    """
    with reading(output) as db:
        noted = "" if db is None else journal.noted_head(db)
    return journal.verify(output, noted)


def say_word(output: Path, images: Sequence[str], word: Word, reason: str = "") -> None:
    """Note a person's word on predictions, also while the folder is watched; all or none.

    `images`: below the watched folder.
    Raises: InputError for an image that was not judged, or a mask that nobody corrected;
    OutputError, DiskFullError.
    """
    _, found = read_verdicts(output, (), images)
    by_path = {one.path: one for one in found}
    for image in images:
        if image not in by_path:
            _, every = read_verdicts(output, _ALL)
            remedy = nearest(image, [one.path for one in every[:1000]]) if every else ""
            raise InputError(image, "has no prediction that was judged", remedy)
    book = OutputBook(output) if word == "corrected" else None
    acts = [_act(output, by_path[image], word, reason, book) for image in images]
    words = [
        msgspec.structs.replace(by_path[image], word=word, word_reason=reason) for image in images
    ]
    _write(output, words, acts)


def _act(output: Path, one: Judged, word: Word, reason: str, book: OutputBook | None) -> Act:
    files = _files_of(output, one)
    if book is not None and not files:
        what = "is gone: there is no correction to believe"
        raise InputError(output / one.mask, what, "Accept or reject the image")
    if book is not None and all(book.has(file) for file in files):
        what = "is as this program wrote it, and no correction lies beside it"
        raise InputError(output / one.mask, what, "Paint over the mask, or save its Labelme file")
    return act_of(
        word,
        image=one.path,
        content=one.digest,
        masks={str(file.relative_to(output.absolute())): digest_of_output(file) for file in files},
        verdict=one.state,
        reasons=one.reasons,
        reason=reason,
    )


def ask_retry(output: Path) -> int:
    """Leave word for the watch that runs, or for the next one; return how many images failed.

    The images themselves are never touched.
    Raises: InputError if none failed, or if the mark cannot be written.
    """
    failed = sum(entry.state == "failed" for entry in read_ledger(output))
    if not failed:
        raise InputError(output, "holds no failed image")
    try:
        os.close(open_own(output / FOLDER / _MARK, os.O_WRONLY | os.O_CREAT))
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise InputError(output / FOLDER, what, "Check its permissions") from None
    return failed


def was_asked(output: Path) -> bool:
    """Tell whether a retry was asked for, and take the mark away."""
    try:
        (output / FOLDER / _MARK).unlink()
    except FileNotFoundError:
        return False
    return True


def note_of(masks: Sequence[Path]) -> str:
    """Say how many of some masks failed, or wait for review, in the hot folder that made them.

    It is "" where none did: masks of FAIL are kept, and whoever counts them should know.
    """
    verdicts: Counter[str] = Counter()
    wanted = {mask.absolute() for mask in masks}
    for output in {folder for mask in wanted for folder in mask.parents}:
        try:
            _, found = read_verdicts(output)
        except EmcfError as error:
            return f"whether any of the masks failed is not known: {error}"
        verdicts.update(
            one.verdict for one in found for mask in masks_of(output, one) if mask in wanted
        )
    if not verdicts:
        return ""
    told = [f"{verdicts[state]} {state.upper()}" for state in ("fail", "review") if verdicts[state]]
    number = how_many(len(masks), "mask")
    return f"{' and '.join(told)} of {number} by their hot folder: they are counted, too"


def masks_of(output: Path, one: Judged) -> list[Path]:
    """Return the masks of an image, of a stack in the order of its planes."""
    masks = dict.fromkeys(judged.masks_by_plane(one).values())
    return [output.absolute() / mask for mask in masks]


def _files_of(output: Path, one: Judged) -> list[Path]:
    """Return an image's masks, and what a person may correct: outlines, objects' numbers."""
    return [file for mask in masks_of(output, one) for file in files_of_mask(mask)]


def files_of_mask(mask: Path) -> list[Path]:
    """Return a mask, and what a person may correct of it: outlines, objects' numbers."""
    files = (mask, mask.with_suffix(".json"), instances_of(mask))
    return [file for file in files if file.is_file()]


def _write(output: Path, words: Sequence[Judged], acts: Sequence[Act]) -> None:
    file = ledger_file(output)
    with contextlib.closing(connect(file)) as db, explained(file):
        with contextlib.suppress(OutputError):  # then its head stays, too
            kept_words.take_from_journal(db, output)
        with db:
            db.execute("BEGIN IMMEDIATE")
            now = {one.path: one for one in judged.read_judged(db, paths=[w.path for w in words])}
            for word in words:
                known = now.get(word.path)
                if known is None or (known.digest, known.numbers) != (word.digest, word.numbers):
                    what = "was predicted anew meanwhile"
                    raise InputError(word.path, what, "Look at it again")
            judged.write_words(db, words)
            kept_words.forget(db, now)
            kept_words.ask_to_measure(db, _to_measure(now, words, acts))
            groups.touch(db, [one.path for one in words])
            journal.keep_acts(db, acts)
        try:
            journal.write_kept(db, output)
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            remedy = "The word is noted, and its line follows as soon as the disk takes it"
            place = output / FOLDER / journal.NAME
            raise OutputError(place, what, remedy, errno=error.errno or 0) from None


def _to_measure(
    before: Mapping[str, Judged], words: Sequence[Judged], acts: Sequence[Act]
) -> dict[str, str]:
    """Return of which images the masks are others now: corrected, or no more, with their acts."""
    return {
        one.path: act.id
        for one, act in zip(words, acts, strict=True)
        if "corrected" in (one.word, before[one.path].word)
    }


@contextlib.contextmanager
def reading(output: Path) -> Generator[sqlite3.Connection | None]:
    """Open the ledger of an output folder to look at it; None where there is none."""
    file = ledger_in(output)
    if file is None:
        yield None
        return
    with explained(file), contextlib.closing(connect_to_read(file)) as db:
        db.text_factory = decoded
        yield db
