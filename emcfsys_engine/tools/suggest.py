"""Suggestions: the images most worth labelling, with Labelme files that a model filled in."""

import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine import any_names
from emcfsys_engine.annotations.draw import shapes_of
from emcfsys_engine.annotations.formats.labelme import (
    SuggestedBy,
    model_of,
    waiting_suggestions,
    write_labelme,
)
from emcfsys_engine.annotations.masks import label_table
from emcfsys_engine.annotations.numbered import all_numbered, read_numbers, with_own_values
from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.annotations.writer import LABELME_OPENS, LABELME_TOLERANCE_PX, write_png
from emcfsys_engine.dataset.follow import gather_some
from emcfsys_engine.dataset.source_images import plain_names
from emcfsys_engine.errors import InputError, ProjectError
from emcfsys_engine.files import read_own, remedy_of, temporary_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import to_8_bit, to_grey
from emcfsys_engine.images.output_names import as_blind_disks_see
from emcfsys_engine.images.own_files import put_over
from emcfsys_engine.images.own_outputs import opened_book
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import UNLABELLED, Project
from emcfsys_engine.run.folder import Run, is_run
from emcfsys_engine.tools.run_contents import not_of_run

CLEARLY_BETTER = 0.01  # of mean IoU: suggestions of such a model replace those nobody opened
_SMALLEST_PX = 8  # smaller regions are specks that a person would only have to delete


class _Ranked(msgspec.Struct, frozen=True, kw_only=True):
    image: str
    mask: str
    score: float


class _Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """Of ranking.json, what is used here."""

    images: tuple[_Ranked, ...]


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """One image to label next, and the file to correct."""

    image: str
    file: str
    uncertainty: float  # 0 to 1


def remove_last(out: Path) -> None:
    """Remove what earlier suggestions were made of, as far as it is as this program wrote it.

    Whatever else lies in the folder stays, and so does all where a link leads elsewhere.
    Raises: InputError where a ranking would lie that is somebody else's; OSError.
    """
    book = opened_book(out)
    for folder, _, names in os.walk(out):
        for name in names:
            book.remove(Path(folder, name))
    for folder in book.file.parent.glob("run-*"):
        run = Run(folder)
        if is_run(folder) and not run.is_alive() and not_of_run(run) is None:
            shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(out / "ranking.json"):
        what = "is not as this program wrote it, and kept"
        raise InputError(out / "ranking.json", what, "Move it elsewhere")


@dataclass(frozen=True, kw_only=True)
class WantedSuggestions:
    """What is to be suggested: the images to look at, and how many of them."""

    images: Mapping[Path, tuple[int, Path]]  # image -> its [[data]] table, its Labelme file
    number: int  # of new suggestions
    renewed: frozenset[Path]  # images whose suggestion is of a model that was beaten clearly
    kept: int  # suggestions that stay as they are


def refuse_other_classes(project: Project, card: ModelCard, file: Path) -> None:
    """Check that a project knows all classes of a model by their names, whatever their values.

    Raises: InputError.
    """
    known = {*project.classes}.union(*(source.labels for source in project.data))
    others = [name for name in card.classes if name not in known]
    if others:
        what = f"knows classes that {project.file} has not: {', '.join(others)}"
        raise InputError(file, what, "Train with today's classes, or name another --model")


def words_of(project: Project, source: int, classes: Sequence[str]) -> list[str]:
    """Return what a model's classes are called in a source, so that its labels say the same.

    Its [data.labels] may take the name of a class for another one: then by a word that it has.
    Raises: ProjectError if there is none.
    """
    if not set(classes) <= set(project.classes):
        return list(classes)  # an older model's names: [data.labels] says what they are today
    table, labels = label_table(project, project.data[source]), project.data[source].labels
    words: list[str] = []
    for name in classes:
        if table.of_name(name) in (project.classes[name], UNLABELLED):
            words.append(name)
            continue
        word = next((word for word, meaning in labels.items() if meaning == name), None)
        if word is None:
            what = f"takes {name!r} for {labels[name]!r}, and has no word for the class {name!r}"
            remedy = f'Add a line for it, such as "our {name}" = "{name}"'
            raise ProjectError(project.file, "data.labels", what, remedy)
        words.append(word)
    return words


def what_to_suggest(
    project: Project, number: int, most: int, score: float | None
) -> WantedSuggestions:
    """Return which images without labels to look at: at most so many, drawn by the seed.

    `score`: of the model; suggestions of one that is clearly worse are renewed.
    Raises: ProjectError if no table has annotations, or every image is labelled.
    """
    places = [n for n, source in enumerate(project.data) if source.annotations is not None]
    if not places:
        what = "no [[data]] table has annotations: suggestions are Labelme files beside them"
        remedy = 'Add annotations = "annotations" to a table whose images you draw in'
        raise ProjectError(project.file, "data", what, remedy)
    labelled = {(one.source, one.image) for one in gather_some(project).samples}
    waiting = {
        file: by
        for n in places
        for file, by in waiting_suggestions(project.data[n], project.folder).items()
    }
    bare: dict[Path, tuple[int, Path]] = {}
    taken: set[str] = set()  # of x.png and x.tif one gets x.json
    for n in places:
        for image, name in plain_names(project, n):
            file = _file_of(project, n, name)
            told = as_blind_disks_see(str(file))
            if image.plane is None and (n, image) not in labelled and told not in taken:
                bare[image.path] = (n, file)
                taken.add(told)
    old = {file for file, by in waiting.items() if _is_beaten(by, score)}
    renewed = {image for image, (_, file) in bare.items() if file in old}
    fresh = [
        image for image, (_, file) in bare.items() if file not in waiting and not file.exists()
    ]
    if not fresh and not waiting:
        what = "every image has labels: there is none to suggest"
        raise ProjectError(project.file, "data", what, "Add images")
    random.Random(project.project.seed).shuffle(fresh)
    kept = len(waiting) - len(renewed)
    return WantedSuggestions(
        images={image: bare[image] for image in (*sorted(renewed), *fresh[:most])},
        number=max(0, min(number - len(waiting), len(fresh))),
        renewed=frozenset(renewed),
        kept=kept,
    )


def write_suggestions(
    project: Project,
    wanted: WantedSuggestions,
    ranking_file: Path,
    by: SuggestedBy,
    card: ModelCard,
) -> list[Suggestion]:
    """Write the Labelme files of the first images of a ranking, and of those to be renewed.

    A file that a person wrote meanwhile is kept. Raises: InputError, OSError.
    """
    try:
        ranking = any_names.decode(read_own(ranking_file)[0], _Ranking)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(ranking_file, f"cannot be read: {error}", "Suggest again") from None
    found: list[Suggestion] = []
    left = wanted.number
    for one in ranking.images:
        image = Path(one.image)
        if image not in wanted.images or (image not in wanted.renewed and left <= 0):
            continue
        source, file = wanted.images[image]
        words = words_of(project, source, card.classes)
        names = dict(zip(card.class_values, words, strict=True))
        if _write(project, source, image, Path(one.mask), file, by, names):
            found.append(Suggestion(image=str(image), file=str(file), uncertainty=one.score))
            left -= image not in wanted.renewed
    return found


def _write(
    project: Project,
    source: int,
    image: Path,
    mask: Path,
    file: Path,
    by: SuggestedBy,
    names: Mapping[int, str],
) -> bool:
    """Write one file; False where somebody drew it meanwhile."""
    ids = read_micrograph(ImageRef(path=mask)).pixels
    table = label_table(project, project.data[source])
    # By names, not values: the project may have numbered its classes anew since.
    meant = {value: table.of_name(name) for value, name in names.items()}
    background = next((v for v, meaning in meant.items() if meaning == table.undrawn), UNLABELLED)
    numbers = read_numbers(ImageRef(path=mask), must_read=True)
    if numbers is not None:  # one shape an object
        ids, numbers = all_numbered(ids, numbers, min(names))
        ids, names = with_own_values(ids, numbers, names, background)
    shapes = shapes_of(
        ids,
        names,
        background=background,
        tolerance_px=LABELME_TOLERANCE_PX,
        smallest_px=_SMALLEST_PX,
    )
    size = (ids.shape[0], ids.shape[1])
    shown = _shown(project, source, image, file)
    named = msgspec.to_builtins(by)
    return _placed(
        file,
        lambda temporary: write_labelme(temporary, shapes, size, shown, suggested_by=named),
        lambda there: model_of(there) is not None,
    )


def _placed(
    file: Path, write: Callable[[Path], None], is_ours: Callable[[Path], bool] = lambda _: False
) -> bool:
    """Write a file under another name, and give it its own; False where a person's lies there."""
    temporary = temporary_of(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        put_over(temporary, file, is_ours)
    except FileExistsError:
        return False
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise InputError(file, what, remedy_of(error)) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _shown(project: Project, source: int, image: Path, file: Path) -> Path:
    """Return the picture that Labelme opens: a view where it cannot open the image itself."""
    images = root_of(project.data[source].images, project.folder).resolve()
    among_images = file.parent.resolve().is_relative_to(images)
    if image.suffix.lower() in LABELME_OPENS or among_images:
        return image
    micrograph = read_micrograph(ImageRef(path=image))
    pixels: np.ndarray = to_8_bit(to_grey(micrograph.pixels), micrograph.info_bar_rows)
    number, view = 1, file.with_name(f"{file.stem}.view.png")
    while view.exists() and not _shows(view, pixels):  # of another image that had this name
        number += 1
        view = file.with_name(f"{file.stem}.{number}.view.png")
    if not view.exists():
        _placed(view, lambda temporary: write_png(temporary, pixels))
    return view


def _shows(view: Path, pixels: np.ndarray) -> bool:
    try:
        return np.array_equal(read_micrograph(ImageRef(path=view)).pixels, pixels)
    except InputError:
        return False


def _is_beaten(by: SuggestedBy, score: float | None) -> bool:
    return score is not None and (by.score is None or score > by.score + CLEARLY_BETTER)


def _file_of(project: Project, source: int, name: str) -> Path:
    return _root(project, source) / f"{name}.json"


def _root(project: Project, source: int) -> Path:
    pattern = project.data[source].annotations
    assert pattern is not None
    return root_of(pattern, project.folder)
