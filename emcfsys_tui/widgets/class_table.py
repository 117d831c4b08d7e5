"""IoU and F1 of each class, as numbers and as bars."""

from typing import ClassVar

from rich.segment import Segment
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from emcfsys_engine.errors import printable
from emcfsys_tui.text import fitted
from emcfsys_tui.view_models import RunDetail


class ClassTable(Widget):
    """One line a class, at the newest validation."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    ClassTable { width: 5fr; }
    ClassTable > .classes--title { color: $dim; }
    ClassTable > .classes--dim { color: $dim; }
    ClassTable > .classes--bar { color: $primary; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"classes--title", "classes--bar", "classes--dim"}

    detail: reactive[RunDetail | None] = reactive(None)

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        base, width = self.rich_style, self.size.width
        detail = self.detail
        if y == 0:
            step = f" at step {detail.validated_at:,} " if detail and detail.validated_at else ""
            text = f"─ classes {'─' * max(0, width - 11 - len(step))}{step}"
            style = base + self.get_component_rich_style("classes--title", partial=True)
            return Strip([Segment(text, style)]).crop_extend(0, width, base)
        if detail is None or not detail.classes:
            text = " no validation yet" if y == 1 else ""
            style = base + self.get_component_rich_style("classes--dim", partial=True)
            return Strip([Segment(text, style)]).crop_extend(0, width, base)
        if y - 1 >= len(detail.classes):
            return Strip.blank(width, base)
        score = detail.classes[y - 1]
        numbers = f" {_score(score.iou)}  F1 {_score(score.f1)} "
        name = fitted(
            printable(score.name), max(6, min(16, width - len(numbers) - 6)), cut="middle"
        )
        room = max(0, width - len(name) - len(numbers) - 3)
        bar = _bar(score.iou or 0.0, min(room, 24))
        style = base + self.get_component_rich_style("classes--bar", partial=True)
        segments = [Segment(f" {name}{numbers}", base), Segment(bar, style)]
        return Strip(segments).crop_extend(0, width, base)


def _score(value: float | None) -> str:
    return "   –" if value is None else f"{value:.3f}".removeprefix("0") if value < 1 else "1.00"


def _bar(share: float, width: int) -> str:
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
