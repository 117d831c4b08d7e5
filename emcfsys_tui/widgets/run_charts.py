"""The charts of runs: loss, IoU, learning rate and speed, under one cursor and one window."""

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from emcfsys_tui.view_models import RunDetail
from emcfsys_tui.widgets.chart import Chart, Curve
from emcfsys_tui.widgets.run_rows import curves_of_one, own_places

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp

HINTS = {  # why there is no curve, of the run that comes first here
    "running": "Waiting for the first step",
    "queued": "Waits in the queue: 5 says for what",
    "paused": "Paused before its first step",
    "new": "Not started yet",
}
HINTS_OF_KINDS = {  # of one that draws no curve at all
    "watch": "A watch: 4 shows what came",
    "predict": "A prediction: its log is below",
    "measure": "Measure: its log is below",
    "evaluate": "Evaluate: its log is below",
    "convert": "Convert: its log is below",
}
_STAGGER_S = 0.03
_LINES = {"loss": "train loss", "iou": "mean", "rate": "learning rate", "speed": "images/s"}
_MACHINE = {"cpu": "processors", "gpu": "GPU", "memory": "memory", "gpu-memory": "GPU memory"}


def waiting_hint(detail: RunDetail) -> str:
    """Return what a training has that waits, and what is wrong with it: the newest word first."""
    told = [line.text for line in detail.lines if line.tone == "warn"]
    return "\n".join(text.removeprefix("warning: ") for text in reversed(told))


class RunCharts(Vertical):
    """Four charts of one run with its classes, or of several runs together."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    RunCharts { width: 3fr; }
    .charts { height: 1fr; }
    .charts.extra { display: none; }
    Screen.-tall .charts.extra { display: block; layout: horizontal; }
    .charts.machine, RunCharts.-machine .charts { display: none !important; }
    RunCharts.-machine .charts.machine { display: block !important; layout: horizontal; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._to_draw: deque[tuple[Chart, tuple[Curve, ...]]] = deque()
        self._is_drawing = False

    def compose(self) -> ComposeResult:
        """Two rows; the second where there is room."""
        with Horizontal(classes="charts"):
            yield Chart("loss", id="loss", log_y=True)
            yield Chart("IoU", id="iou")
        with Horizontal(classes="charts extra"):
            yield Chart("learning rate", id="rate", decimals=6)
            yield Chart("images/s", id="speed", decimals=1)
        with Horizontal(classes="charts machine"):
            yield Chart("processors", id="cpu", decimals=1)
            yield Chart("GPU", id="gpu", decimals=2)
        with Horizontal(classes="charts machine"):
            yield Chart("memory GB", id="memory", decimals=1)
            yield Chart("GPU memory GB", id="gpu-memory", decimals=1)

    @property
    def stands(self) -> bool:
        """Tell whether all its charts are there."""
        return len(self.query(Chart)) == len(_LINES) + len(_MACHINE)

    @on(Chart.Pointed)
    def point_all(self, event: Chart.Pointed) -> None:
        """One cursor over all charts."""
        for chart in self.query(Chart):
            chart.cursor_x = event.x

    @on(Chart.Zoomed)
    def zoom_all(self, event: Chart.Zoomed) -> None:
        """One window over all charts."""
        for chart in self.query(Chart):
            chart.window = event.window

    def show(self, details: Sequence[RunDetail], letters: Mapping[str, str]) -> None:
        """Draw the curves of these runs; `letters` tell several apart."""
        for chart_id, curves in self._curves(details, letters).items():
            chart = self.query_one(f"#{chart_id}", Chart)
            if curves or chart.curves:
                self._to_draw.append((chart, curves))
        self._draw_next()

    def show_hint(self, hint: str) -> None:
        """Say in charts without curves why they have none."""
        for chart in self.query(Chart):
            is_machine = chart.id in _MACHINE
            chart.hint = (
                "Nothing was measured" if is_machine and not hint.startswith("Wait") else hint
            )

    def switch_log_axis(self) -> None:
        """Draw the loss on a logarithmic axis, or on a plain one."""
        chart = self.query_one("#loss", Chart)
        chart.log_y = not chart.log_y

    def switch_machine(self) -> None:
        """Show what the machine did, or what the network learned."""
        self.toggle_class("-machine")

    def smooth_more(self) -> None:
        """Smooth more, then not at all."""
        for chart in self.query(Chart):
            chart.smoothing = (chart.smoothing + 1) % 4

    def _draw_next(self, *, again: bool = False) -> None:
        """Hand one chart its curves, the next one a moment later: no tick draws two."""
        if (self._is_drawing and not again) or not self.is_mounted:
            return
        self._is_drawing = bool(self._to_draw)
        if self._to_draw:
            chart, curves = self._to_draw.popleft()
            while any(other is chart for other, _ in self._to_draw):
                chart, curves = self._to_draw.popleft()
            chart.curves = curves
            self.set_timer(_STAGGER_S, partial(self._draw_next, again=True))

    def _curves(
        self, details: Sequence[RunDetail], letters: Mapping[str, str]
    ) -> dict[str, tuple[Curve, ...]]:
        app = cast("EmcfApp", self.app)
        colours = app.colours
        if len(details) == 1:
            of_classes = app.class_colours(len(details[0].classes))
            return curves_of_one(details[0], colours, of_classes)
        places = own_places([detail.id for detail in details], len(colours))
        return {
            chart: tuple(
                Curve(
                    name=detail.id,
                    glyph=letters.get(detail.id, "●"),
                    view=detail.curves[line],
                    colour=colours[places[detail.id]],
                    best_x=detail.best_step if chart == "iou" else None,
                )
                for detail in details
                if line in detail.curves
            )
            for chart, line in (_LINES | _MACHINE).items()
        }
