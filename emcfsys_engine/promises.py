"""The IoU that a model expects of its masks beside the true one: does it keep its promise?"""

from collections.abc import Sequence
from statistics import StatisticsError, correlation, fmean

import msgspec

from emcfsys_engine.errors import printable
from emcfsys_engine.text import how_many

_MOST_LINES = 20  # of a table for people


class ImageScore(msgspec.Struct, frozen=True, kw_only=True):
    """The mask of one image: its true IoU, and the one that was expected."""

    image: str
    iou: float | None  # mean of the classes in truth or mask; None: nothing is labelled
    expected: float | None = None  # None: its models cannot tell
    low: float | None = None  # nine of ten lie between low and high
    high: float | None = None
    reason: str = ""  # why it is low
    class_iou: dict[str, float | None] = {}
    class_expected: dict[str, float] = {}

    @property
    def holds(self) -> bool | None:
        """Whether the true IoU lies where it was expected; None: one of them is not known."""
        if self.iou is None or self.low is None or self.high is None:
            return None
        return self.low <= self.iou <= self.high

    @property
    def gap(self) -> float:
        """How far the expected IoU is off; 0 where one of them is not known."""
        if self.iou is None or self.expected is None:
            return 0.0
        return abs(self.expected - self.iou)


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """How well expected and true IoU agree over the images of which both are known."""

    images: int
    within: float  # share of them whose true IoU lies in the interval: 0.9 is promised
    error: float  # mean difference
    spearman: float | None  # correlation of ranks; None: fewer than three, or all alike


def promise_of(scores: Sequence[ImageScore]) -> Promise | None:
    """Return how well a model kept its promise; None where it made none."""
    known = [one for one in scores if one.holds is not None]
    if not known:
        return None
    return Promise(
        images=len(known),
        within=fmean(bool(one.holds) for one in known),
        error=fmean(one.gap for one in known),
        spearman=_spearman([(one.expected or 0.0, one.iou or 0.0) for one in known]),
    )


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < 3:
        return None
    from scipy.stats import rankdata  # half a second, and where nothing is expected none needs it

    try:
        return correlation(*(rankdata(values).tolist() for values in zip(*pairs, strict=True)))
    except StatisticsError:  # all of one kind are equal
        return None


def words_of(promise: Promise | None) -> str:
    """Return in a line how well it was kept."""
    if promise is None:
        return "expected IoU: the model cannot tell how good its masks are"
    words = f"expected IoU: off by {promise.error:.4f} on average, the true one lies in the"
    words += (
        f" interval of {promise.within:.0%} of {how_many(promise.images, 'image')} (90% promised)"
    )
    if promise.spearman is not None:
        words += f", Spearman {promise.spearman:.3f}"
    return words


def table_of(scores: Sequence[ImageScore], promise: Promise | None) -> list[str]:
    """Return lines for people: images with the largest differences first, and the whole."""
    if promise is None:
        return [words_of(promise)]
    shown = sorted(scores, key=lambda one: -one.gap)[:_MOST_LINES]
    width = max(5, *(len(printable(one.image)) for one in shown))
    lines = [f"{'image':<{width}}   true    expected  between        "]
    for one in shown:
        cells = f"{_four(one.iou):<6}  {_four(one.expected):<8}"
        between = "" if one.low is None else f"{_four(one.low)}–{_four(one.high)}"
        told = "  outside" if one.holds is False else ""
        told += f"  {one.reason}" if one.reason else ""
        lines.append(f"{printable(one.image):<{width}}   {cells}  {between:<13}{told}".rstrip())
    if len(scores) > len(shown):
        lines.append(f"… and {len(scores) - len(shown)} more that are nearer (--json: all)")
    return [lines[0].rstrip(), *lines[1:], words_of(promise)]


def _four(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
