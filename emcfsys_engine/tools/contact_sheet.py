"""A picture of what will be learned: images, labels over them, and augmented patches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from emcfsys_engine.annotations.writer import write_png
from emcfsys_engine.colours import colours_for
from emcfsys_engine.dataset.samples import Sample, gather, read_labels
from emcfsys_engine.errors import InputError, printable
from emcfsys_engine.files import remedy_of
from emcfsys_engine.images.normalise import GREY, RGB, read_as, to_8_bit
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.overlays import laid_over
from emcfsys_engine.images.own_outputs import replace_own
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.project import UNLABELLED, Project

_TILE_PX = 320
_COLUMNS = 4
_CAPTION_PX = 16
_MOST_TILES = 12


def contact_sheet(
    project: Project, out: Path, *, patches: Sequence[tuple[np.ndarray, np.ndarray]] = ()
) -> int:
    """Write a PNG of the images a person should look at first, and return how many it shows.

    Those come first that hold the rarest classes and those of each source and split. patches are
    augmented ones, as (image, class ids).
    Shapes: patches are H×W or H×W×C, any dtype, and uint8 H×W.
    """
    tiles: list[Image.Image] = []
    channels = GREY if project.model.channels == "grey" else RGB
    for sample in _first_to_see(gather(project).samples):
        try:
            micrograph = read_micrograph(sample.image)
            ids = read_labels(sample, project, micrograph.pixels.shape[:2])
        except InputError as fault:
            tiles.append(_tile(None, None, project, f"{sample.name}: {fault.what}"))
            continue
        shown = to_8_bit(read_as(micrograph.pixels, channels), micrograph.info_bar_rows)
        tiles.append(_tile(shown, None, project, f"{sample.name} ({sample.split})"))
        tiles.append(_tile(shown, ids, project, "labels"))
    for number, (pixels, ids) in enumerate(patches, start=1):
        shown = to_8_bit(np.asarray(pixels))
        tiles.append(_tile(shown, np.asarray(ids), project, f"augmented patch {number}"))
    sheet = np.asarray(_pasted(tiles, project))
    book = OutputBook(project.folder)
    try:
        replace_own(out, book, lambda temporary: write_png(temporary, sheet))
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise InputError(out, what, remedy_of(error, "Name another file")) from None
    return len(tiles)


def overlay(shown: np.ndarray, ids: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return an image with its classes in colour; the first class stays as it is.

    Shapes: uint8 H×W or H×W×3, and H×W in, uint8 H×W×3 out.
    """
    picture = laid_over(shown, ids, values, colours_for(len(values)))
    unlabelled = ids == UNLABELLED
    picture[unlabelled] = picture[unlabelled] // 3
    return picture


def _in_rgb(shown: np.ndarray) -> np.ndarray:
    return np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown.copy()


def _first_to_see(samples: Sequence[Sample]) -> list[Sample]:
    counts = {
        name: sum(name in sample.classes for sample in samples)
        for name in frozenset().union(*(sample.classes for sample in samples))
    }
    rarest = sorted(samples, key=lambda s: (min((counts[n] for n in s.classes), default=0), s.name))
    chosen: list[Sample] = []
    kinds: set[tuple[int, str]] = set()
    for sample in rarest:
        if (sample.source, sample.split) not in kinds:
            kinds.add((sample.source, sample.split))
            chosen.append(sample)
    chosen += [sample for sample in rarest if sample not in chosen]
    return chosen[: _MOST_TILES // 2]


def _tile(
    shown: np.ndarray | None, ids: np.ndarray | None, project: Project, caption: str
) -> Image.Image:
    tile = Image.new("RGB", (_TILE_PX, _TILE_PX + _CAPTION_PX), (24, 24, 24))
    if shown is not None:
        step = max(1, max(shown.shape) // (2 * _TILE_PX))
        small = shown[::step, ::step]
        if ids is None:
            pixels = _in_rgb(small)
        else:
            pixels = overlay(small, ids[::step, ::step], project.class_values)
        picture = Image.fromarray(pixels)
        picture.thumbnail((_TILE_PX, _TILE_PX))
        tile.paste(picture, (0, _CAPTION_PX))
    # The built-in font knows Latin letters only.
    words = printable(caption)[-52:].encode("latin-1", "replace").decode("latin-1")
    ImageDraw.Draw(tile).text((3, 2), words, fill=(230, 230, 230))
    return tile


def _pasted(tiles: Sequence[Image.Image], project: Project) -> Image.Image:
    rows = -(-len(tiles) // _COLUMNS)
    width, height = _COLUMNS * _TILE_PX, rows * (_TILE_PX + _CAPTION_PX)
    sheet = Image.new("RGB", (width, height + 24), (24, 24, 24))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        sheet.paste(tile, (column * _TILE_PX, row * (_TILE_PX + _CAPTION_PX)))
    draw = ImageDraw.Draw(sheet)
    x = 4
    names = project.class_names
    for name, colour in zip(names, colours_for(len(names)), strict=True):
        draw.rectangle((x, height + 6, x + 12, height + 18), fill=colour)
        words = printable(name).encode("latin-1", "replace").decode("latin-1")
        draw.text((x + 16, height + 6), words, fill=(230, 230, 230))
        x += 28 + int(draw.textlength(words))
    return sheet
