"""What the interface and the child that looks at images say to each other."""

from typing import Any, NamedTuple

import msgspec

from emcfsys_engine import any_names
from emcfsys_tui.view_models import Drawing


class PictureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the interface wants to see."""

    key: str
    path: str
    project: str = ""
    plane: int | None = None
    label: Any = None  # where the labels are, as JSON has it
    source: int = 0
    mask: str = ""  # a prediction; instead of the label
    model: str = ""  # whose classes the mask has; instead of the project's
    run: str = ""  # the folder of a prediction in shards
    mosaic: int = -1  # the place of a large image among those that its tasks share out
    view: tuple[float, float, float, float] | None = None  # left, top, width, height in pixels
    width: int = 0
    height: int = 0  # 0 × 0: only the point
    point: tuple[int, int] | None = None  # what is there is wanted, and no picture
    is_strip: bool = False  # a preview of a validation: four panels in colour
    drawing: Drawing | None = None  # the terminal's own pixels are wanted, too
    is_calm: bool = False  # greys that cost few bytes on the way to a terminal


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to see; `num_grey`, `num_ids` … bytes follow it."""

    key: str
    width: int = 0
    height: int = 0
    image_px: tuple[int, int] = (0, 0)
    view_px: tuple[float, float, float, float] = (0, 0, 1, 1)
    pixel_nm: float | None = None
    classes: tuple[tuple[int, str], ...] = ()
    fault: str = ""
    info: str = ""
    point: str = ""
    channels: int = 1
    drawing: Drawing | None = None  # as it was asked for
    is_whole: bool = True  # else more was done than is shown: ask again
    num_grey: int = 0
    num_ids: int = 0
    num_rims: int = 0
    num_graphic: int = 0


class Reply(NamedTuple):
    """An answer with its pixels."""

    answer: Answer
    grey: bytes = b""
    ids: bytes = b""
    rims: bytes = b""
    graphic: bytes = b""

    def line(self) -> bytes:
        """Return it as it is sent: a JSON line, then the bytes that this announces."""
        head = msgspec.structs.replace(
            self.answer,
            num_grey=len(self.grey),
            num_ids=len(self.ids),
            num_rims=len(self.rims),
            num_graphic=len(self.graphic),
        )
        pixels = self.grey + self.ids + self.rims + self.graphic
        return any_names.encode(head) + b"\n" + pixels


def room(request: PictureRequest, wide: float, high: float) -> tuple[int, int]:
    """Return how many half-blocks across and down a part of an image fills of a request's room."""
    scale = min(request.width / wide, request.height / high)
    num_x = max(1, min(request.width, round(wide * scale)))
    num_y = max(2, min(request.height, round(high * scale)))
    if request.drawing is not None:
        num_y += num_y % 2  # the terminal's own pixels fill whole cells
    return num_x, num_y


def drawn_px(drawing: Drawing, num_x: int, num_y: int) -> tuple[int, int]:
    """Return width and height in the terminal's own pixels of so many half-blocks."""
    return num_x * drawing.cell_px[0], max(1, num_y * drawing.cell_px[1] // 2)


def fit(
    view: tuple[float, float, float, float], width: int, height: int
) -> tuple[float, float, float, float]:
    """Return the part of an image nearest to the wanted one: left, top, width, height in pixels."""
    wide, high = min(max(view[2], 4.0), float(width)), min(max(view[3], 4.0), float(height))
    left = min(max(view[0], 0.0), width - wide)
    top = min(max(view[1], 0.0), height - high)
    return left, top, wide, high
