"""Which images are most worth annotating next: those the network is unsure of, and unlike others.

H and W pixels.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine import any_names
from emcfsys_engine.annotations.formats.labelme import model_of
from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.files import identity_of, remedy_of
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import write_own
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.images.writers import companion
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import Event, WarningGiven
from emcfsys_engine.text import cell_of, how_many

JSON_NAME, TABLE_NAME = "ranking.json", "ranking.csv"
_UPPER = 0.1  # share of the pixels, the most uncertain ones, that an image's score is the mean of
_CELL_PX = 64
_REGION_CELLS = 4  # regions of 256 px
_NUM_REGIONS = 5
_BINS = 16


class RankedRegion(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an image that is worth a look. Units: pixels; mean uncertainty 0 to 1."""

    x: int
    y: int
    width: int
    height: int
    uncertainty: float


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """One image of the ranking."""

    rank: int
    image: str
    mask: str
    score: float  # mean uncertainty, 0 to 1, of the most uncertain tenth of its pixels
    novelty: float  # 0 to 1: how unlike the images ranked before it
    regions: tuple[RankedRegion, ...]


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """ranking.json."""

    format: int = 1
    how: str = (
        "score: mean normalised entropy of the most uncertain tenth of the pixels; order: greedy, "
        "by score x (0.5 + 0.5 x novelty), novelty: distance of class shares and uncertainties "
        "from those ranked before"
    )
    images: tuple[Ranked, ...]
    annotated: tuple[str, ...] = ()  # left out: their Labelme file stands beside them
    left_out: tuple[str, ...] = ()  # without an uncertainty map


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    ref: ImageRef
    mask: Path
    score: float
    traits: np.ndarray  # of unit sum twice: class shares, histogram of uncertainties
    regions: tuple[RankedRegion, ...]


def rank(
    pairs: Sequence[tuple[ImageRef, Path]],
    values: Sequence[int],
    is_of_its_mask: Callable[[Path], bool] = lambda mask: True,
) -> Ranking:
    """Order predicted images by how much an annotation of them would teach.

    Pairs are images and their masks, with the uncertainty maps beside. An image that has a Labelme
    file beside it is annotated and left out, unless that is a suggestion that nobody saved.
    `is_of_its_mask`: whether the uncertainty beside a mask was made with it; else it is left out.
    """
    seen: list[_Seen] = []
    annotated: list[str] = []
    left_out: list[str] = []
    for ref, mask in pairs:
        beside = ref.path.with_suffix(".json")
        is_there = identity_of(beside) is not None  # unlike exists() also asked of too long a name
        try:
            if ref.plane is None and is_there and model_of(beside) is None:
                annotated.append(str(ref))
                continue
            if not is_of_its_mask(mask):
                left_out.append(str(ref))
                continue
            seen.append(_look(ref, mask, values))
        except EmcfError:
            left_out.append(str(ref))
    return Ranking(
        images=tuple(_ordered(seen)), annotated=tuple(annotated), left_out=tuple(left_out)
    )


def write_ranking(book: OutputBook, ranking: Ranking) -> None:
    """Write ranking.json and ranking.csv into the folder of the masks.

    A file of that name that is not ours is kept: ranking.v2.json lies beside it then.

    Raises: InputError when they cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["rank", "image", "score", "novelty", "x", "y", "width", "height"])
    for one in ranking.images:
        first = one.regions[0]
        place = (first.x, first.y, first.width, first.height)
        table.writerow(
            [one.rank, cell_of(one.image), f"{one.score:.4f}", f"{one.novelty:.4f}", *place]
        )
    content = any_names.encode(ranking, indent=1)
    table_bytes = text.getvalue().encode("utf-8", "surrogateescape")
    try:
        write_own(book.out / JSON_NAME, content, book)
        write_own(book.out / TABLE_NAME, table_bytes, book)
    except OSError as error:
        raise InputError(
            book.out, f"cannot be written: {error.strerror}", remedy_of(error)
        ) from None


def _look(ref: ImageRef, mask: Path, values: Sequence[int]) -> _Seen:
    entropy_HW = read_micrograph(ImageRef(path=companion(mask, "uncertainty"))).pixels
    mask_HW = read_micrograph(ImageRef(path=mask)).pixels
    counts = np.bincount(entropy_HW.ravel(), minlength=256)
    shares = np.bincount(mask_HW.ravel(), minlength=256)[list(values)]
    coarse = counts.reshape(_BINS, -1).sum(axis=1)
    size = max(1, entropy_HW.size)
    return _Seen(
        ref=ref,
        mask=mask,
        score=_upper_mean(counts) / 255,
        traits=np.concatenate((shares / size, coarse / size)),
        regions=tuple(_regions(entropy_HW)),
    )


def _upper_mean(counts: np.ndarray) -> float:
    """Return the mean of the highest values, by a histogram of them."""
    wanted = max(1, math.ceil(int(counts.sum()) * _UPPER))
    total, left = 0, wanted
    for value in range(255, -1, -1):
        taken = min(left, int(counts[value]))
        total += taken * value
        left -= taken
    return total / wanted


def _ordered(seen: list[_Seen]) -> list[Ranked]:
    """Take the best one by one; each is judged by its distance to the nearest that was taken."""
    if not seen:
        return []
    traits = np.stack([one.traits for one in seen])
    scores = np.asarray([one.score for one in seen])
    nearest = np.ones(len(seen))
    waiting = np.ones(len(seen), bool)
    ranked: list[Ranked] = []
    for number in range(1, len(seen) + 1):
        worth = np.where(waiting, scores * (0.5 + 0.5 * nearest), -1.0)
        best = int(worth.argmax())
        waiting[best] = False
        one = seen[best]
        ranked.append(
            Ranked(
                rank=number,
                image=str(one.ref),
                mask=str(one.mask),
                score=round(one.score, 6),
                novelty=round(float(nearest[best]), 6),
                regions=one.regions,
            )
        )
        # Half the city-block distance of two distributions lies in 0 to 1; there are two of them.
        distance = np.abs(traits - traits[best]).sum(axis=1) / 4
        nearest = np.minimum(nearest, distance)
    return ranked


def _regions(entropy_HW: np.ndarray) -> list[RankedRegion]:
    """Return the most uncertain squares that do not overlap, the most uncertain first."""
    height, width = entropy_HW.shape
    tall, wide = min(height, _CELL_PX * _REGION_CELLS), min(width, _CELL_PX * _REGION_CELLS)
    tops = list(range(0, height - tall + 1, _CELL_PX))
    lefts = list(range(0, width - wide + 1, _CELL_PX))
    rows = np.add.reduceat(entropy_HW, _edges(tops, tall, height), axis=0, dtype=np.int64)
    cells = np.add.reduceat(rows, _edges(lefts, wide, width), axis=1)
    total = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1), np.int64)
    total[1:, 1:] = cells.cumsum(axis=0).cumsum(axis=1)
    down, across = -(-tall // _CELL_PX), -(-wide // _CELL_PX)
    sums = total[down:, across:] - total[:-down, across:] - total[down:, :-across]
    sums = (sums + total[:-down, :-across])[: len(tops), : len(lefts)].astype(np.float64)
    found: list[RankedRegion] = []
    while len(found) < _NUM_REGIONS and (sums >= 0).any():
        row, column = np.unravel_index(int(sums.argmax()), sums.shape)
        mean = float(sums[row, column]) / (tall * wide * 255)
        found.append(
            RankedRegion(
                x=lefts[column], y=tops[row], width=wide, height=tall, uncertainty=round(mean, 6)
            )
        )
        near_rows = slice(max(0, int(row) - down + 1), int(row) + down)
        sums[near_rows, max(0, int(column) - across + 1) : int(column) + across] = -1
    return found


def _edges(starts: list[int], length: int, size: int) -> list[int]:
    """Return where cells begin; the last region ends with a cell."""
    end = starts[-1] + length
    return [*range(0, end, _CELL_PX), *([end] if end < size else [])]


def rank_into(
    book: OutputBook,
    pairs: Sequence[tuple[ImageRef, Path]],
    card: ModelCard,
    emit: Callable[[Event], None],
) -> None:
    """Rank images by their masks' uncertainty, and write that; say which have none of theirs."""
    ranking = rank(pairs, card.class_values, lambda mask: _is_of_its_mask(book, mask))
    write_ranking(book, ranking)
    if ranking.left_out:
        few = ", ".join(Path(name).name for name in ranking.left_out[:3])
        have = how_many(len(ranking.left_out), "image has", "images have")
        what = f"{have} a mask without its uncertainty ({few}): not ranked"
        emit(WarningGiven(message=f"{what}. Use --force to predict again"))


def _is_of_its_mask(book: OutputBook, mask: Path) -> bool:
    """Tell whether the uncertainty beside a mask is of the same model and image as the mask."""
    beside = companion(mask, "uncertainty")
    if not book.is_known(beside):
        return True  # somebody put it there, or `rank` says that it is not
    by, of = book.maker_of(beside), book.last_content(beside)
    return by == book.maker_of(mask) and of == book.last_content(mask)
