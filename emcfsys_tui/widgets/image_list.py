"""The images of a project as rows, made when they are drawn, and the check's findings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

from emcfsys_tui.view_models import FindingRow, ImageFacts, ImageRow
from emcfsys_tui.widgets.list import Column, Row

IMAGE_COLUMNS = (
    Column(title="", width=1),
    Column(title="image", cut="middle"),
    Column(title="labels", width=16, wide=24, cut="end", hide_below=42),
    Column(title="split", width=5),
    Column(title="px", width=10, right=True, hide_below=46),
    Column(title="nm", width=6, right=True, hide_below=66),
    Column(title="problem", width=24, hide_below=90),
)


class ImageList(Sequence[Row]):
    """The images that match, made into rows when they are drawn."""

    def __init__(
        self,
        images: Sequence[ImageRow],
        order: Sequence[int],
        facts: Mapping[str, ImageFacts],
        problems: Mapping[str, str],
    ) -> None:
        self.images, self.order = images, order
        self._facts, self._problems = facts, problems

    def __len__(self) -> int:
        """Return how many match."""
        return len(self.order)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        """Return the row at a place."""
        if isinstance(place, slice):
            return [self[n] for n in range(*place.indices(len(self)))]
        image = self.images[self.order[place]]
        facts = self._facts.get(image.path)
        problem = self._problems.get(image.path) or (facts.fault if facts else "")
        cells = (
            "!" if problem else " ",
            image.name if image.plane is None else f"{image.name}#{image.plane}",
            image.labels or "–",
            image.split or "–",
            facts.size if facts else "",
            "" if facts is None or facts.pixel_nm is None else f"{facts.pixel_nm:.4g}",
            problem,
        )
        return Row(
            key=image.key, cells=cells, tone="bad" if problem else "" if image.labels else "dim"
        )


def image_of(one: FindingRow, by_stem: Mapping[str, str]) -> str:
    return by_stem.get(Path(one.file.partition("#")[0]).stem, "")


def finding_row(number: int, one: FindingRow) -> Row:
    name = Path(one.file).name
    tone = "bad" if one.level == "error" else "warn"
    what = f"{one.what}. {one.remedy}" if one.remedy else one.what
    return Row(key=str(number), cells=("✗" if one.level == "error" else "!", name, what), tone=tone)
