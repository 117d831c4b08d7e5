"""A list that draws only the lines that are seen: a hundred thousand rows cost what twenty do."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, overload

import msgspec
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from emcfsys_engine.colours import class_letters
from emcfsys_engine.errors import printable
from emcfsys_tui.settings import quiet
from emcfsys_tui.text import fitted, one_line
from emcfsys_tui.view_models import (
    STATE_OF_LABELS,
    ImageFacts,
    Images,
    RunDetail,
    Tone,
)
from emcfsys_tui.widgets.canvas import Colour, style_of

_WIDE = 64
_SIDEWAYS = 16  # characters a step


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column; width 0 takes what the others leave."""

    title: str
    width: int = 0
    wide: int = 0  # its width in a list of 64 columns or more, where that differs
    right: bool = False
    cut: Literal["end", "middle", "start"] = "end"
    hide_below: int = 0  # leave it out where the list is narrower
    scrolls: bool = False  # sideways, with left and right


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a key that stays the same, its cells and its tone."""

    key: str
    cells: tuple[str, ...]
    tone: Tone = ""


class Rows(ScrollView, can_focus=True):
    """Rows under a line of titles, with a cursor and marks."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    Rows { height: 1fr; scrollbar-size-vertical: 1; overflow-x: hidden; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("up,k", "move(-1)", "Up", "list.up"),
        quiet("down,j", "move(1)", "Down", "list.down"),
        quiet("pageup", "page(-1)", "Page up", "list.page_up"),
        quiet("pagedown", "page(1)", "Page down", "list.page_down"),
        quiet("home,g", "edge(0)", "First", "list.first"),
        quiet("end,G", "edge(-1)", "Last", "list.last"),
        quiet("enter", "open", "Open", "list.open"),
        quiet("left,h", "sideways(-1)", "Left", "list.left", "The beginning of long lines"),
        quiet("right,l", "sideways(1)", "Right", "list.right", "The rest of long lines"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "rows--title",
        "rows--cursor",
        "rows--blurred",
        "rows--dim",
        "rows--good",
        "rows--warn",
        "rows--bad",
        "rows--live",
        "rows--empty",
    }

    rows: reactive[Sequence[Row]] = reactive((), always_update=True)
    cursor: reactive[int] = reactive(0)
    marked: reactive[frozenset[str]] = reactive(frozenset())
    empty: reactive[str] = reactive("")
    left: reactive[int] = reactive(0)  # characters of long lines that are scrolled away

    class Moved(Message):
        """The cursor is on another row."""

        def __init__(self, rows: "Rows", row: Row | None) -> None:
            self.rows, self.row = rows, row
            super().__init__()

        @property
        def control(self) -> "Rows":
            """The list, for `@on` selectors."""
            return self.rows

    class Opened(Moved):
        """The person opened a row."""

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        id: str | None = None,
        empty: str = "",
        titles: bool = True,
    ) -> None:
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.set_reactive(Rows.empty, empty)
        self._titles = int(titles)
        self._widths: tuple[int, ...] = ()
        self._told: str | None = None
        self._at_key: str | None = None

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if 0 <= self.cursor < len(self.rows) else None

    def go_to(self, key: str) -> bool:
        """Put the cursor on the row with this key."""
        place = place_of(key, self.rows)
        if place is not None:
            self.cursor = place
        return place is not None

    def watch_rows(self) -> None:
        """Keep the cursor on its row, wherever that went."""
        if self._at_key is not None and (self.current is None or self.current.key != self._at_key):
            self.go_to(self._at_key)
        self.set_reactive(Rows.cursor, max(0, min(self.cursor, len(self.rows) - 1)))
        self._resize_content()
        self.refresh()
        self._tell()

    def watch_cursor(self) -> None:
        """Show the cursor's row and tell of it."""
        line = self.cursor + self._titles
        height = max(1, self.size.height - self._titles)
        top = round(self.scroll_offset.y)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=line - height, animate=False, force=True)
        self.refresh()
        self._tell()

    def validate_cursor(self, cursor: int) -> int:
        """Keep the cursor on a row."""
        return max(0, min(cursor, len(self.rows) - 1))

    def action_move(self, by: int) -> None:
        """Go up or down."""
        self.cursor += by

    def action_page(self, by: int) -> None:
        """Go a page up or down."""
        self.cursor += by * max(1, self.size.height - self._titles - 1)

    def action_edge(self, place: int) -> None:
        """Go to the first or last row."""
        self.cursor = 0 if place == 0 else len(self.rows) - 1

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave left and right to others where no column scrolls."""
        return action != "sideways" or any(column.scrolls for column in self.columns)

    def action_sideways(self, by: int) -> None:
        """Show what lies beside the right edge, or go back."""
        self.left = max(0, self.left + by * _SIDEWAYS)

    def validate_left(self, left: int) -> int:
        """Leave some of the longest line on the screen."""
        place = next((n for n, column in enumerate(self.columns) if column.scrolls), None)
        if place is None or left <= 0:
            return 0
        height = max(1, self.size.height)
        top = round(self.scroll_offset.y)
        seen = self.rows[top : top + height]
        longest = max((len(row.cells[place]) for row in seen), default=0)
        return min(left, max(0, longest - _SIDEWAYS))

    def action_open(self) -> None:
        """Open the row under the cursor."""
        if self.current is not None:
            self.post_message(self.Opened(self, self.current))

    def on_resize(self) -> None:
        """Share the width out anew."""
        self._widths = _share(self.columns, self.size.width)
        self._resize_content()
        self.watch_cursor()

    def on_click(self, event: events.Click) -> None:
        """Go to the row that was clicked; a second click opens it."""
        place = event.y - self._titles + round(self.scroll_offset.y)
        if event.y < self._titles or not 0 <= place < len(self.rows):
            return
        self.cursor = place
        if event.chain > 1:
            self.action_open()

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        width = self.size.width
        base = self.rich_style
        if not self.rows:
            return self._empty_line(y, width)
        if y < self._titles:
            cells = tuple(column.title for column in self.columns)
            style = base + self.get_component_rich_style("rows--title", partial=True)
            return Strip([Segment(self._text(cells, " "), style)]).crop_extend(0, width, base)
        place = y - self._titles + round(self.scroll_offset.y)
        if place >= len(self.rows):
            return Strip.blank(width, base)
        row = self.rows[place]
        style = base
        if row.tone:
            style += self.get_component_rich_style(f"rows--{row.tone}", partial=True)
        if place == self.cursor:
            name = "rows--cursor" if self.has_focus else "rows--blurred"
            if row.tone == "dim" or self.app.current_theme.ansi:  # no such word on its paper
                style = base
            style += self.get_component_rich_style(name, partial=True)
        here = ("▸" if self.has_focus else "▹") if place == self.cursor else " "
        mark = "■" if row.key in self.marked else here
        return Strip([Segment(self._text(row.cells, mark), style)]).crop_extend(0, width, style)

    def _empty_line(self, y: int, width: int) -> Strip:
        lines = _wrapped(self.empty, max(1, width - 2))
        if 0 <= y - self._titles < len(lines):
            style: Style = self.get_component_rich_style("rows--empty")
            mark = "▸" if self.has_focus and y == self._titles else " "
            return Strip([Segment(f"{mark} {lines[y - self._titles]}", style)]).crop_extend(
                0, width, self.rich_style
            )
        return Strip.blank(width, self.rich_style)

    def _text(self, cells: Sequence[str], mark: str) -> str:
        parts = [mark]
        for column, width, cell in zip(self.columns, self._widths, cells, strict=False):
            if width > 0:
                text = one_line(cell)
                if column.scrolls and self.left:
                    text = f"…{text[self.left + 1 :]}"
                parts.append(fitted(text, width, right=column.right, cut=column.cut))
        return " ".join(parts)

    def _resize_content(self) -> None:
        self.virtual_size = Size(self.size.width, len(self.rows) + self._titles)

    def _tell(self) -> None:
        key = self.current.key if self.current else None
        self._at_key = key
        if key != self._told:
            self._told = key
            self.post_message(self.Moved(self, self.current))


def _share(columns: Sequence[Column], width: int) -> tuple[int, ...]:
    """Return the width of each column, 0 for those that are left out."""
    shown = [width >= column.hide_below for column in columns]
    own = [column.wide if column.wide and width >= _WIDE else column.width for column in columns]
    fixed = sum(one + 1 for one, is_shown in zip(own, shown, strict=True) if is_shown)
    growing = [n for n, column in enumerate(columns) if shown[n] and not column.width]
    rest = max(0, width - 1 - fixed)
    widths: list[int] = []
    for n in range(len(columns)):
        if not shown[n]:
            widths.append(0)
        elif own[n]:
            widths.append(own[n])
        else:
            extra = 1 if growing.index(n) < rest % len(growing) else 0
            widths.append(max(4, rest // len(growing) + extra))
    return tuple(widths)


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and cell_len(line) + 1 + cell_len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


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
    colours: reactive[tuple[Colour, ...]] = reactive(())  # of the classes, in their order

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
            printable(score.name), max(6, min(16, width - len(numbers) - 8)), cut="middle"
        )
        room = max(0, width - len(name) - len(numbers) - 5)
        bar = _bar(score.iou or 0.0, min(room, 24))
        style = base + self.get_component_rich_style("classes--bar", partial=True)
        own = base + style_of(self.colours[y - 1]) if y <= len(self.colours) else base
        letter = class_letters([one.name for one in detail.classes])[y - 1]
        words = Segment(f" {name}{numbers}", base)
        segments = [Segment(f"■{letter}", own), words, Segment(bar, style)]
        return Strip(segments).crop_extend(0, width, base)


def _score(value: float | None) -> str:
    return "   –" if value is None else f"{value:.3f}".removeprefix("0") if value < 1 else "1.00"


def _bar(share: float, width: int) -> str:
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


IMAGE_COLUMNS = (
    Column(title="", width=1),
    Column(title="", width=1),
    Column(title="image", cut="middle"),
    Column(title="labels", width=14, wide=24, cut="end", hide_below=42),
    Column(title="split", width=5),
    Column(title="px", width=10, right=True, hide_below=46),
    Column(title="nm", width=6, right=True, hide_below=66),
    Column(title="problem", width=24, hide_below=90),
)


class ImageList(Sequence[Row]):
    """The images that match, made into rows when they are drawn."""

    def __init__(
        self,
        images: Images,
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
        image = self.images.rows[self.order[place]]
        facts = self._facts.get(image.path)
        problem = self._problems.get(image.path) or (facts.fault if facts else "")
        cells = (
            "!" if problem else " ",
            STATE_OF_LABELS[image.state_of_labels(facts)][0],
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

    def place_of(self, key: str) -> int | None:
        """Return where an image is among those that match; no row is made for it."""
        wanted = self.images.places.get(key, -1)
        place = bisect_left(self.order, wanted)
        return place if place < len(self.order) and self.order[place] == wanted else None


def place_of(key: str, rows: Sequence[Row]) -> int | None:
    """Return where the row with a key is; None where there is none."""
    if isinstance(rows, ImageList):
        return rows.place_of(key)
    return next((place for place, row in enumerate(rows) if row.key == key), None)
