"""What the interface costs, on a real pty: python -m tests.bench.tui prints one table."""

import fcntl
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import Event, EventWriter, RunStarted, StepDone, ValidationDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.tools.demo import make_demo
from tests.bench.terminal import Terminal, project_environment

_EMPTY_APP = (
    "from textual.app import App\nfrom textual.widgets import Static\n"
    "class Empty(App):\n    def compose(self): yield Static('empty app')\nEmpty().run()\n"
)
_ROUNDS = 7
Line = tuple[str, str, str, str]


def main() -> None:
    """Measure everything and print it."""
    with tempfile.TemporaryDirectory(prefix="emcfsys-bench-") as place:
        home = Path(place)
        lines = [
            *first_paint(home),
            *key_in_data(home),
            *long_run(home),
            *many_images(home),
            *streams(home),
            *both_at_once(home),
        ]
    widths = [max(len(line[n]) for line in lines) for n in range(3)]
    for line in lines:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)),
            line[3],
        )


def first_paint(home: Path) -> Iterator[Line]:
    """An empty Textual app against ours, by turns."""
    folder = _demo(home)
    empty: list[float] = []
    listed: list[float] = []
    opened: list[float] = []
    filled: list[float] = []
    for _ in range(_ROUNDS):
        empty.append(_paint_s(home, [sys.executable, "-c", _EMPTY_APP], "empty app"))
        listed.append(
            _paint_s(home, [sys.executable, "-m", "emcfsys_tui"], "Looking for projects|folder")
        )
        opened.append(_paint_s(home, [*_ours(), str(folder)], "Hot folder"))
        filled.append(_paint_s(home, [*_ours(), str(folder)], "cell_0000"))
        shutil.rmtree(home / "state", ignore_errors=True)
    base = statistics.median(empty)
    yield "empty Textual app, first paint", f"{base * 1000:.0f} ms", "–", ""
    for name, times in (("list of projects", listed), ("a project", opened)):
        middle = statistics.median(times)
        yield (
            f"first paint, {name}",
            f"{middle * 1000:.0f} ms = {middle / base:.2f} ×",
            "≤ 1.5 ×, ≤ 500 ms",
            _verdict(middle <= 1.5 * base and middle <= 0.5),
        )
    middle = statistics.median(filled)
    yield (
        "a project with its images listed",
        f"{middle * 1000:.0f} ms",
        "≤ 500 ms",
        _verdict(middle <= 0.5),
    )


def key_in_data(home: Path) -> Iterator[Line]:
    """Bytes of a key that shows another image, whole picture and all, and of the rest after it."""
    terminal = _open(home, [str(_demo(home))])
    try:
        terminal.wait_for("Hot folder")
        terminal.press("1")
        terminal.read_for(4.0)
        sizes = [_bytes_of(terminal, "\x1b[B", 1.2) for _ in range(8)]
        middle = statistics.median(sizes)
        words = f"median {middle / 1000:.1f} kB, most {max(sizes) / 1000:.1f} kB"
        yield "a key in Data at 100×30", words, "≤ 6 kB", _verdict(middle <= 6000)
        rest = _bytes_of(terminal, "", 3.0)
        yield "Data at rest: bytes", f"{rest / 3:.0f} B/s", "0", _verdict(rest == 0)
    finally:
        terminal.close()


def _bytes_of(terminal: Terminal, key: str, seconds: float) -> int:
    terminal.num_bytes = 0
    terminal.press(key)
    terminal.read_for(seconds)
    return terminal.num_bytes


def long_run(home: Path, num_events: int = 1_000_000) -> Iterator[Line]:
    """A run with a million events, opened and followed."""
    folder = _demo(home)
    run = _made_run(folder, num_events)
    shutil.rmtree(home / "state", ignore_errors=True)  # the last tab: Runs again
    terminal = _open(home, [str(folder)])
    try:
        terminal.wait_for("Hot folder")
        shown = terminal.wait_until_shown(r"1\.?0*M|1,000,000", limit_s=60)
        yield (
            "run of 1,000,000 events: chart",
            f"{shown:.2f} s",
            "≤ 2 s from the start",
            _verdict(shown <= 2),
        )
        terminal.read_for(2.0)
        before, begun = terminal.cpu_s(), time.perf_counter()
        terminal.num_bytes = 0
        terminal.read_for(5.0)
        idle = (terminal.cpu_s() - before) / (time.perf_counter() - begun)
        num_idle = terminal.num_bytes
        yield "idle with that run open: CPU", f"{idle:.1%}", "≤ 2 %", _verdict(idle <= 0.02)
        yield "idle: bytes to the terminal", f"{num_idle / 5:.0f} B/s", "0", _verdict(num_idle == 0)
    finally:
        terminal.close()
    shutil.rmtree(run.folder)


def many_images(home: Path, num_images: int = 100_000) -> Iterator[Line]:
    """A project of a hundred thousand images."""
    folder = _many(home, num_images)
    terminal = _open(home, [str(folder)])
    try:
        terminal.wait_for("Hot folder")
        before = time.perf_counter()
        terminal.press("1")
        terminal.wait_for("image_0000")
        shown = time.perf_counter() - before
        yield "100,000 images: list on the screen", f"{shown:.2f} s", "≤ 1 s", _verdict(shown <= 1)
        terminal.wait_for("100,000 images")
        answers = [terminal.answer_s(key) for key in ("G", "g", "\x1b[6~", "j", "/", "9", "9")]
        yield _latency("100,000 images: a key answered", answers)
    finally:
        terminal.close()
    shutil.rmtree(folder)


def both_at_once(home: Path) -> Iterator[Line]:
    """A hundred thousand images and five runs at 50 events a second, 150 keys in each tab."""
    folder = _many(home, 100_000)
    with _streaming(folder, num_runs=5, per_s=50):
        terminal = _open(home, [str(folder)])
        try:
            terminal.wait_for("Hot folder")
            terminal.press("1")
            terminal.wait_for("100,000 images")
            terminal.read_for(8.0)
            keys = [*"jjjjj", *["\x1b[6~"] * 5, *["\x1b[A"] * 5, "G", "g"] * 9
            answers = [terminal.answer_s(key) for key in keys]
            yield _most("100,000 images and 5 runs: a key in Data", answers)
            terminal.press("3")
            terminal.read_for(2.0)
            answers = [terminal.answer_s(key) for key in "jk" * 75]
            yield _most("100,000 images and 5 runs: a key in Runs", answers)
        finally:
            terminal.close()
    shutil.rmtree(folder)


def _most(name: str, answers: list[float]) -> Line:
    middle, most = statistics.median(answers), statistics.quantiles(answers, n=100)[98]
    words = f"median {middle * 1000:.0f} ms, 99th percentile {most * 1000:.0f} ms"
    return name, words, "≤ 50 ms", _verdict(most <= 0.05)


def streams(home: Path) -> Iterator[Line]:
    """Two live charts, then five runs at 50 events a second."""
    folder = _demo(home)
    shutil.rmtree(home / "state", ignore_errors=True)  # the last tab: Runs again
    with _streaming(folder, num_runs=2, per_s=2):
        terminal = _open(home, [str(folder)])
        try:
            terminal.wait_for("images/s|classes")
            terminal.press(" j ")  # both, overlaid
            terminal.read_for(3.0)
            terminal.num_bytes = 0
            before, begun = terminal.cpu_s(), time.perf_counter()
            terminal.read_for(8.0)
            share = (terminal.cpu_s() - before) / (time.perf_counter() - begun)
            rate = terminal.num_bytes / 8000
            yield "two live charts: bytes", f"{rate:.1f} kB/s", "≤ 10 kB/s", _verdict(rate <= 10)
            yield "two live charts: CPU", f"{share:.1%}", "–", ""
        finally:
            terminal.close()
    with _streaming(folder, num_runs=5, per_s=50):
        terminal = _open(home, [str(folder)])
        try:
            terminal.wait_for("images/s|classes")
            terminal.press(" j j j j ")  # all five, overlaid
            terminal.read_for(3.0)
            answers = [terminal.answer_s(key) for key in "jkjkjkjkjk?"]
            yield _latency("5 runs at 50 events/s: a key answered", answers)
        finally:
            terminal.close()


def _latency(name: str, answers: list[float]) -> Line:
    slowest = max(answers)
    words = f"median {statistics.median(answers) * 1000:.0f} ms, slowest {slowest * 1000:.0f} ms"
    return name, words, "≤ 50 ms", _verdict(slowest <= 0.05)


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def _ours() -> list[str]:
    return [sys.executable, "-m", "emcfsys_tui"]


def _open(home: Path, arguments: list[str]) -> Terminal:
    return Terminal([*_ours(), *arguments], environment=project_environment(home), size=(100, 30))


def _paint_s(home: Path, command: list[str], pattern: str) -> float:
    terminal = Terminal(command, environment=project_environment(home))
    try:
        return terminal.wait_for(pattern)
    finally:
        terminal.close()


def _demo(home: Path) -> Path:
    folder = home / "demo"
    if not folder.exists():
        make_demo(folder)
    return folder


def _many(home: Path, num_images: int) -> Path:
    folder = home / "many"
    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(num_images):
        (images / f"image_{number:06}.png").touch()
    (folder / "masks").mkdir()
    (folder / "project.toml").write_text(
        '[project]\nname = "many"\n[classes]\na = 0\nb = 1\n'
        '[[data]]\nimages = "images"\nmasks = "masks"\n'
    )
    return folder


def _made_run(folder: Path, num_events: int) -> Run:
    run = new_run(folder / "runs", TrainRequest(), project=load_project(folder))
    start = RunStarted(run=run.id, does="train", total_steps=num_events)
    encoder, noise = msgspec.json.Encoder(), random.Random(0)
    with run.events_file.open("wb") as stream:
        stream.write(encoder.encode(start) + b"\n")
        for step in range(1, num_events):
            stream.write(encoder.encode(_step(step, noise)) + b"\n")
            if step % 50_000 == 0:
                stream.write(encoder.encode(_validation(step)) + b"\n")
        stream.write(encoder.encode(_step(num_events, noise)) + b"\n")
    return run


def _step(step: int, noise: random.Random) -> StepDone:
    loss = 2.0 / (1 + step / 5000) + 0.1 * noise.random()
    return StepDone(step=step, loss=loss, learning_rate=1e-3, seconds=0.1)


def _validation(step: int) -> ValidationDone:
    iou = 0.9 - 0.5 / (1 + step / 50)
    return ValidationDone(
        step=step, train_loss=1.0, val_loss=1.1, mean_iou=iou, mean_foreground_iou=iou,
        accuracy=iou,
        iou={"membrane": iou, "background": iou}, f1={}, learning_rate=1e-3, images_per_s=20.0,
        seconds_left=100.0, score=iou, is_best=True,
    )  # fmt: skip


@contextmanager
def _streaming(folder: Path, *, num_runs: int, per_s: float) -> Iterator[None]:
    """Write events into runs, as their workers would."""
    project = load_project(folder)
    runs = [new_run(folder / "runs", TrainRequest(), project=project) for _ in range(num_runs)]
    over = threading.Event()
    threads = [threading.Thread(target=_stream, args=(run, per_s, over)) for run in runs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for run in runs:
            shutil.rmtree(run.folder)


def _stream(run: Run, per_s: float, over: threading.Event) -> None:
    noise = random.Random(run.id)
    with run.lock_file.open("w") as lock, EventWriter(run.events_file) as writer:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it lives
        writer.write(RunStarted(run=run.id, does="train", total_steps=100_000))
        for step in range(1, 201):
            writer.write(_step(step, noise))
        step = 200
        while not over.wait(1 / per_s):
            step += 1
            event: Event = _step(step, noise)
            writer.write(event)
            if step % 20 == 0:
                writer.write(_validation(step))


if __name__ == "__main__":
    try:
        main()
    except EmcfError as error:
        sys.exit(str(error))
