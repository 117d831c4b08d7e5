"""Before a project is made: what its folder holds, and what would be written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from msgspec.structs import replace
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Static

from emcfsys_engine.errors import InputError
from emcfsys_engine.text import how_many
from emcfsys_tui.engine.projects import look_into
from emcfsys_tui.screens.dialogs import AskScreen
from emcfsys_tui.screens.message import MessageScreen
from emcfsys_tui.screens.page import KeyLine
from emcfsys_tui.settings import quiet, shown
from emcfsys_tui.text import one_line, safe_lines
from emcfsys_tui.view_models import FindingRow, FolderLook, NewProject, Notice
from emcfsys_tui.widgets.findings import Findings
from emcfsys_tui.widgets.list import Column, Row, Rows

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp

_CLASSES = (
    Column(title="class", width=14, wide=24, cut="middle"),
    Column(title="shapes", width=7, right=True),
    Column(title="images", width=7, right=True),
    Column(title="value", width=5, right=True),
    Column(title="", scrolls=True),
)


class LookTaken(Message, bubble=False):
    """The folder was looked at, with these labels merged, or these classes named."""

    def __init__(self, look: FolderLook | str, new: NewProject) -> None:
        self.look = look  # or why it cannot be
        self.new = new
        super().__init__()


class NewProjectScreen(ModalScreen[NewProject | None]):
    """What was found in a folder; nothing is written before enter."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    NewProjectScreen { background: $background; }
    NewProjectScreen Static { height: auto; padding: 0 1; }
    NewProjectScreen #new-title { color: $primary; text-style: bold; }
    NewProjectScreen #new-notes { color: $dim; }
    NewProjectScreen #new-classes { height: auto; max-height: 60%; }
    NewProjectScreen #new-faults { height: 1fr; min-height: 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("ctrl+t,enter", "make", "make it", "new.make", "Write it and open it", "enter"),
        shown(
            "m", "merge", "merge", "new.merge", "Make this label another name of the one like it"
        ),
        shown(
            "c", "name_classes", "name classes", "new.classes", "Say which classes will be drawn"
        ),
        shown("e", "make_and_edit", "make, edit", "new.edit", "Write it, and open it in $EDITOR"),
        shown("escape,q", "close", "back", "new.close", "Write nothing"),
        quiet("tab", "app.focus_next", "Next", "new.next"),
        quiet("u", "part", "Merge no more", "new.part", "Take the merges back"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._look: FolderLook | None = None
        self._new = NewProject(folder=folder)

    def compose(self) -> ComposeResult:
        """What there is in all, the classes, what cannot be used."""
        yield Static(id="new-title", markup=False)
        yield Rows(_CLASSES, id="new-classes", empty="Looking at the folder …")
        yield Static(id="new-notes", markup=False)
        yield Findings(id="new-faults")
        yield KeyLine()

    def on_mount(self) -> None:
        """Look, in a thread: nothing waits for a slow disk."""
        self.query_one("#new-title", Static).update(f"{one_line(str(self._folder))}")
        self.query_one("#new-classes").focus()
        self._look_again(self._new)

    def on_look_taken(self, event: LookTaken) -> None:
        """Show what was found."""
        if isinstance(event.look, str):
            cast("EmcfApp", self.app).tell(event.look, "error")
            if self._look is None:
                self.dismiss(None)
            return
        self._look, self._new = event.look, event.new
        self.query_one("#new-title", Static).update(_title(event.look))
        rows = self.query_one("#new-classes", Rows)
        rows.rows = [
            _row(event.look, place, self._new.merges) for place in range(len(event.look.classes))
        ]
        self.query_one("#new-notes", Static).update(safe_lines("\n".join(event.look.notes)))
        self.query_one(Findings).findings = tuple(
            FindingRow(level="error", file=one.file, what=one.what, remedy=one.remedy)
            for one in event.look.unreadable
        )
        self.refresh_bindings()

    @on(Rows.Moved, "#new-classes")
    def offer_merge(self) -> None:
        """The keys are those of this row."""
        self.refresh_bindings()

    @on(Rows.Opened, "#new-classes")
    def make(self) -> None:
        """Enter makes it, wherever the cursor is in the classes."""
        self.action_make()

    @on(Rows.Opened, "#new-faults")
    def read_fault(self) -> None:
        """Enter opens why a file cannot be used."""
        one = self.query_one(Findings).chosen
        if one is not None:
            notice = Notice(
                title="cannot be used", what=one.what, remedy=one.remedy, where=one.file
            )
            self.app.push_screen(MessageScreen(notice))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what can be done."""
        if action == "merge":
            return self._look is not None and bool(self._partner())
        if action == "part":
            return bool(self._new.merges)
        if action == "name_classes":  # shapes and masks tell their own
            return self._look is not None and not any(one.images for one in self._look.classes)
        return True

    def action_make(self) -> None:
        """Write project.toml."""
        self._end(is_edited=False)

    def action_make_and_edit(self) -> None:
        """Write project.toml, and edit it."""
        self._end(is_edited=True)

    def action_merge(self) -> None:
        """Take the label under the cursor for the one that is like it."""
        row, partner = self.query_one("#new-classes", Rows).current, self._partner()
        if row is not None and partner:
            self._look_again(replace(self._new, merges=(*self._new.merges, (row.key, partner))))

    def action_part(self) -> None:
        """Take all merges back."""
        self._look_again(replace(self._new, merges=()))

    def action_name_classes(self) -> None:
        """Ask for the classes, where no label tells them."""
        if self._look is None:
            return

        def named(answer: str | None) -> None:
            if answer:
                self._look_again(replace(self._new, classes=answer))

        now = ", ".join(one.name for one in self._look.classes)
        self.app.push_screen(
            AskScreen("Which classes? First the one that nobody draws", now), named
        )

    def action_close(self) -> None:
        """Write nothing."""
        self.dismiss(None)

    def _end(self, *, is_edited: bool) -> None:
        if self._look is not None and cast("EmcfApp", self.app).may_change():
            self.dismiss(replace(self._new, is_edited=is_edited))

    def _partner(self) -> str:
        """Return the label that the one under the cursor is like; empty: none."""
        row = self.query_one("#new-classes", Rows).current
        return like(self._look, row.key) if row is not None and self._look is not None else ""

    def _look_again(self, new: NewProject) -> None:
        work: Callable[[], None] = partial(self._take, new)
        self.run_worker(work, thread=True, exclusive=True, group="look")

    def _take(self, new: NewProject) -> None:
        try:
            look: FolderLook | str = look_into(new)
        except InputError as error:
            look = str(error)
        self.post_message(LookTaken(look, new))


def like(look: FolderLook, name: str) -> str:
    """Return the label that may be the same class as this one; empty: there is none."""
    for one, other in look.alike:
        if name in (one, other):
            return other if name == one else one
    return ""


def _title(look: FolderLook) -> str:
    file = Path(look.file)
    labelled = f"{look.num_labelled:,} with {look.kind} in {look.labels}"
    return one_line(
        f"{file.parent.name}: {how_many(look.num_images, 'image')} in {look.images}, "
        f"{labelled if look.num_labelled else 'none labelled'}  →  {file}"
    )


def _row(look: FolderLook, place: int, merges: tuple[tuple[str, str], ...]) -> Row:
    one = look.classes[place]
    partner = like(look, one.name)
    merged = [label for label, to in merges if to == one.name]
    remark = f"! like {partner}: m merges it into that" if partner else ""
    remark = f"with {', '.join(merged)}  {remark}" if merged else remark
    shapes = f"{one.shapes:,}" if one.shapes else "–"
    cells = (one.name, shapes, f"{one.images:,}", f"{one.value}", remark)
    return Row(key=one.name, cells=cells, tone="warn" if partner else "")
