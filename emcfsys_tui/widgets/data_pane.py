"""Data: every image with its labels and split, a look at one of them, and the check beside."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.reactive import reactive
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from emcfsys_engine.text import for_shell, how_many
from emcfsys_tui.engine import data, notices, predictions, runs
from emcfsys_tui.engine.data import PictureSpec
from emcfsys_tui.engine.edit_project import digest_of
from emcfsys_tui.messages import (
    CheckRead,
    FactsRead,
    ImagesRead,
    LabelsChanged,
    TextFound,
    UncertainFound,
)
from emcfsys_tui.screens.dialogs import AskScreen
from emcfsys_tui.settings import quiet, shown
from emcfsys_tui.view_models import (
    CheckState,
    Deed,
    ImageFacts,
    ImageRow,
    Images,
    Notice,
)
from emcfsys_tui.widgets.findings import Findings, image_of
from emcfsys_tui.widgets.list import IMAGE_COLUMNS, ImageList, Rows
from emcfsys_tui.widgets.log_view import TextInput
from emcfsys_tui.widgets.picture_pane import PictureBox, PicturePane
from emcfsys_tui.widgets.picture_view import PictureView

_EMPTY = (
    "No images here. [[data]] in project.toml says where they are; 2 shows what is wrong with it."
)


class DataPane(PicturePane):
    """A hundred thousand images, as easily as ten."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    DataPane #data-left { width: 6fr; }
    DataPane #images { height: 1fr; }
    DataPane #findings { height: auto; min-height: 1; max-height: 10; }
    DataPane #data-filter { height: 1; border: none; padding: 0 1; background: $panel; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        shown(
            "slash",
            "filter",
            "filter",
            "data.filter",
            "Show the images with these words: name, class, split, “no labels”",
            "/",
        ),
        shown(
            "u",
            "next_bare",
            "unlabelled",
            "data.next_bare",
            "Go to the next image that has no labels yet",
        ),
        shown(
            "U",
            "most_uncertain",
            "most uncertain",
            "data.most_uncertain",
            "Go to the image that a model was least sure of, then to the next one",
        ),
        quiet(
            "S",
            "suggest",
            "Suggest labels",
            "data.suggest",
            "Let the best model fill in label files for the images most worth labelling",
        ),
        shown("o", "overlay", "overlay", "data.overlay", "Labels, prediction, or the bare image"),
        shown(
            "c", "one_class", "class", "data.class", "Lay one class after the other over the image"
        ),
        shown(
            "z",
            "zoom(0.5)",
            "zoom",
            "data.zoom_in",
            "Zoom in around the pointer; Z zooms out",
        ),
        shown("v", "convert", "convert", "data.convert", "Write the annotations in another format"),
        quiet("escape", "drop_filter", "Show all again", "data.drop_filter"),
        quiet("Z", "zoom(2.0)", "Zoom out", "data.zoom_out"),
        quiet(
            "b", "opacity", "Outline or fill", "data.opacity", "Outlines of the classes, or fills"
        ),
        quiet("w", "whole", "Whole image", "data.whole"),
        quiet(
            "e",
            "split",
            "Edit the split",
            "data.split",
            "train, val, test or auto for this image's source",
        ),
        quiet(
            "a",
            "assign",
            "Assign a label",
            "data.assign",
            "Say which class a label of this source means",
        ),
        quiet("k", "check", "Check again", "data.check", "Run emcfsys-engine check"),
        quiet("i", "inspect", "Facts of the file", "data.inspect", "What the file says of itself"),
        quiet(
            "P",
            "predict",
            "Predict all images",
            "data.predict",
            "Submit a prediction of this source with the best model; o shows it",
        ),
    ]

    BOXES = (("#images", "#data-filter"), ("#findings", "#check-title"), ("#data-right",))

    images: reactive[Images] = reactive(Images, always_update=True, repaint=False)
    check_state: reactive[CheckState] = reactive(CheckState(running=True), repaint=False)
    wanted: reactive[str] = reactive("", repaint=False)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._facts: dict[str, ImageFacts] = {}
        self._problems: dict[str, str] = {}
        self._notes: tuple[str, ...] = ()
        self._is_complete = False
        self._uncertain_seen: set[str] = set()  # where U has been

    @property
    def command(self) -> str:
        """The command that checks the same."""
        return f"emcfsys-engine check {for_shell(self.folder)}"

    def compose(self) -> ComposeResult:
        """List and check at the left, the picture at the right."""
        with Horizontal():
            with Vertical(id="data-left"):
                yield TextInput(
                    placeholder="words to look for; esc ends", id="data-filter", compact=True
                )
                yield Rows(IMAGE_COLUMNS, id="images", empty="Reading the folders …")
                yield Static(id="check-title", classes="section", markup=False)
                yield Findings(id="findings")
            yield PictureBox(id="data-right")

    def on_mount(self) -> None:
        """Read names at once, the rest in children."""
        self.query_one("#data-filter").display = False
        self.run_worker(self._list, thread=True, exclusive=True, group="list")
        self.action_check()
        self.feed_on(data.LabelWatch(self.folder).read, every_s=1.0)

    def on_unmount(self) -> None:
        """End the list and the check."""
        runs.end_looking()

    def take_focus(self) -> None:
        """The list first."""
        self.query_one("#images", Rows).focus()

    def go_to_item(self, item: str) -> None:
        """Put the cursor on an image."""
        self.query_one("#images", Rows).go_to(item)

    def on_images_read(self, event: ImagesRead) -> None:
        """Show the images."""
        self._notes = event.notes
        self._is_complete = event.is_complete
        self.query_one("#images", Rows).empty = event.fault or _EMPTY
        self.images = event.images
        if event.is_complete:  # now its labels are known
            self.wish_again()

    @on(LabelsChanged)
    def look_again(self) -> None:
        """Look at the labels again, and check: somebody draws."""
        self.run_worker(self._list_again, thread=True, exclusive=True, group="list")
        self.action_check()

    def on_facts_read(self, event: FactsRead) -> None:
        """Add sizes."""
        self._facts.update(event.facts)
        self.query_one("#images", Rows).refresh()

    def on_check_read(self, event: CheckRead) -> None:
        """Show what the check found."""
        self.check_state = event.check

    def watch_images(self) -> None:
        """Show those that match."""
        self._show_images()

    def watch_wanted(self) -> None:
        """Show what matches."""
        self._show_images()

    def watch_check_state(self, check: CheckState) -> None:
        """Show the findings, and mark the images they speak of."""
        if not self.is_built:
            return
        self._problems = {}
        for one in check.findings:
            path = image_of(one, self.images.by_stem)
            if path:
                self._problems.setdefault(path, one.what)
        title = "check runs …" if check.running else f"check: {check.summary}"
        self.query_one("#check-title", Static).update(f"─ {title} " + "─" * 80)
        findings = self.query_one(Findings)
        findings.empty = "" if check.running else "Nothing to mend: 2 goes on to Train."
        findings.findings = check.findings
        self._show_images()

    @on(Rows.Moved, "#images")
    def look(self) -> None:
        """Show the image under the cursor."""
        image = self._current()
        self.show_image(image.name if image else "")

    @on(Rows.Opened, "#images")
    def enter_picture(self) -> None:
        """Enter goes to the picture."""
        self.query_one(PictureView).focus()

    @on(Rows.Opened, "#findings")
    def read_finding(self, event: Rows.Opened) -> None:
        """Enter opens the whole fault."""
        one = self.query_one(Findings).chosen
        if event.row is not None and one is not None:
            image = image_of(one, self.images.by_stem)
            self.attempt(partial(notices.of_finding, one, self.folder, image))

    def act_on(self, notice: Notice, deed: Deed) -> None:
        """Go to the image that a fault speaks of, or check again."""
        if deed == "check":
            self.action_check()
        elif deed == "image" and self.query_one("#images", Rows).go_to(notice.about):
            self.take_focus()

    @on(Input.Changed, "#data-filter")
    def filter_images(self, event: Input.Changed) -> None:
        """Filter as the person types."""
        self.wanted = event.value

    @on(Input.Submitted, "#data-filter")
    def end_filter(self) -> None:
        """Keep the filter, and look."""
        self.take_focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let escape go on to the screen while there is no filter to drop."""
        if action == "drop_filter":
            return self.is_mounted and bool(self.query_one("#data-filter").display)
        return True

    def action_drop_filter(self) -> None:
        """Show all images again."""
        self.close_filter("#data-filter")

    def action_filter(self) -> None:
        """Open the filter."""
        self.open_filter("#data-filter")

    def action_next_bare(self) -> None:
        """Go to the next image without labels, from the top again after the last."""
        rows = self.query_one("#images", Rows)
        if not isinstance(rows.rows, ImageList) or not self._is_complete:
            return
        order, number = rows.rows.order, len(rows.rows)
        for step in range(1, number + 1):
            place = (rows.cursor + step) % number
            if not rows.rows.images.rows[order[place]].labels:
                rows.cursor = place
                self.take_focus()
                return
        self.page_app.tell("Every image has labels.")

    def action_most_uncertain(self) -> None:
        """Look up which images a model was least sure of."""
        self.attempt(lambda: UncertainFound(tuple(predictions.most_uncertain(self.folder))))

    @on(UncertainFound)
    def go_to_uncertain(self, event: UncertainFound) -> None:
        """Go to the first of them without a person's labels that was not visited yet."""
        rows = self.query_one("#images", Rows)
        bare = {row.path: row.key for row in self.images.rows if not row.labels}
        waiting = [path for path in event.images if path in bare]
        if not waiting:
            word = (
                "all that a model ranked have labels" if event.images else "nothing ranks them yet"
            )
            self.page_app.tell(f"Which images are uncertain: {word}. S suggests, P predicts all")
            return
        if self._uncertain_seen.issuperset(waiting):
            self._uncertain_seen.clear()
        path = next(path for path in waiting if path not in self._uncertain_seen)
        self._uncertain_seen.add(path)
        if rows.go_to(bare[path]):
            self.take_focus()
            at, of = waiting.index(path) + 1, len(waiting)
            self.page_app.tell(f"{at} of {of} without labels, the most uncertain first")

    def action_suggest(self) -> None:
        """Ask how many label files a model shall fill in."""
        if not self.may_change():
            return

        def answered(answer: str | None) -> None:
            if answer:
                self.page_app.tell("The best model looks at the images without labels …")
                self.attempt(partial(predictions.suggest, self.folder, answer))

        question = "Fill in label files for how many of the images most worth labelling?"
        command = runs.as_command("suggest", str(self.folder), "--number", "…")
        self.app.push_screen(AskScreen(question, "10", command=command), answered)

    def action_overlay(self) -> None:
        """Labels, prediction, nothing."""
        image = self._current()
        has_both = image is not None and image.label is not None and bool(self._mask_of(image))
        self.query_one(PictureBox).next_overlay(has_prediction=has_both)
        self.wish_again()

    def action_check(self) -> None:
        """Run the check in a child."""
        self.check_state = CheckState(running=True, findings=self.check_state.findings)
        self.run_worker(self._check, thread=True, exclusive=True, group="check")

    def action_inspect(self) -> None:
        """Show what the file says of itself."""
        image = self._current()
        if image is not None:
            self.attempt(partial(_inspect, image.path))

    def action_convert(self) -> None:
        """Ask for a format and write the annotations in it."""
        question = (
            "Write the annotations of this source as masks, labelme, coco, geojson or imagej,"
            " into a folder beside them.\nFormat:"
        )
        self._ask(data.convert_labels, lambda image: question, lambda image: "masks")

    def action_split(self) -> None:
        """Ask which split the image's source belongs to, and write it."""
        self._ask(
            partial(self._change, data.set_split),
            lambda image: (
                f"Split of source {image.source} ([[data]] number {image.source + 1}):"
                " train, val, test or auto"
            ),
            lambda image: image.split or "auto",
        )

    def action_assign(self) -> None:
        """Ask which class a label means, and write it."""
        unknown = data.label_in(self._finding_under_cursor())
        self._ask(
            partial(self._change, data.assign_label),
            lambda image: (
                f"Source {image.source}: which class is a label?"
                " Write label = class, or label = ignore"
            ),
            lambda image: data.proposal(self.folder, unknown) if unknown else "",
        )

    def _ask(
        self,
        deed: data.Change,
        question: Callable[[ImageRow], str],
        proposal: Callable[[ImageRow], str],
    ) -> None:
        """Ask something about the source of the image under the cursor; do it with the answer."""
        image = self._current()
        if image is None or not self.may_change():
            return
        before = digest_of(self.folder)

        def answered(answer: str | None) -> None:
            if answer and digest_of(self.folder) != before:  # its number may be another's
                words = "project.toml changed meanwhile: nothing was done, ask again"
                self.page_app.tell(words, "warning")
            elif answer:
                self.attempt(partial(deed, self.folder, image.source, answer))

        self.app.push_screen(AskScreen(question(image), proposal(image)), answered)

    def action_predict(self) -> None:
        """Submit a prediction of the image's source."""
        image = self._current()
        if image is not None and self.may_change():
            self.attempt(partial(predictions.submit_prediction, self.folder, image.source))

    def _change(self, change: data.Change, folder: Path, source: int, answer: str) -> str:
        word = change(folder, source, answer)
        self.app.call_from_thread(self.reload)
        return word

    def reload(self) -> None:
        """Read everything again."""
        self.run_worker(self._list, thread=True, exclusive=True, group="list")
        self.action_check()

    def _finding_under_cursor(self) -> str:
        chosen = self.query_one(Findings).chosen
        return chosen.what if chosen is not None else ""

    def _list(self) -> None:
        worker = get_current_worker()
        data.list_images(self.folder, self.post_message, lambda: worker.is_cancelled)

    def _list_again(self) -> None:
        worker = get_current_worker()
        data.list_images(
            self.folder, self.post_message, lambda: worker.is_cancelled, names_first=False
        )

    def _check(self) -> None:
        self.post_message(data.check(self.folder))

    def _current(self) -> ImageRow | None:
        rows = self.query_one("#images", Rows).rows
        place = self.query_one("#images", Rows).cursor
        if isinstance(rows, ImageList) and 0 <= place < len(rows):
            return rows.images.rows[rows.order[place]]
        return None

    def wanted_picture(self) -> PictureSpec | None:
        """Return the image under the cursor, with its labels or prediction."""
        image = self._current()
        if image is None:
            return None
        box, mask = self.query_one(PictureBox), self._mask_of(image)
        is_bare = bool(image.state) and image.label is None  # before, its labels are not known yet
        box.is_predicted = is_bare and bool(mask)
        return PictureSpec(
            key=image.key,
            path=image.path,
            project=str(self.folder / "project.toml"),
            plane=image.plane,
            label=image.label,
            source=image.source,
            mask=mask if box.shows_prediction or box.is_predicted else "",
        )

    def _mask_of(self, image: ImageRow | None) -> str:
        if image is None:
            return ""
        return predictions.newest_mask(self.folder, image.source, image.name)

    def _show_images(self) -> None:
        if not self.is_built:
            return
        words = self.wanted.split()
        order = self.images.matching(self.wanted)
        rows = self.query_one("#images", Rows)
        if words:
            rows.empty = "No image matches. esc shows all again."
        rows.rows = ImageList(self.images, order, self._facts, self._problems)
        shown = f"{len(order):,} of " if words else ""
        counts = f"{shown}{how_many(len(self.images.rows), 'image')}"
        states = self.images.states if self._is_complete else "reading …"
        counts += f" · {states}" if states else ""
        self.query_one(PictureBox).counts = counts


def _inspect(path: str) -> TextFound:
    done = data.run_command(["inspect", path])
    return TextFound(Path(path).name, done.out or done.words)
