"""Walk the manual's page "from no label to masks" in a real tmux, and film it.

    python -m tests.bench.film FOLDER [--pictures .github/screens]

FOLDER, which is new, becomes the newcomer's: the images of superalloy-sem without a label. Keys are
pressed as a person does, labels are written as Labelme saves them, each picture is the screen as
tmux has it. Needs tmux and Chromium. About ten minutes on two quiet cores.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from rich.ansi import AnsiDecoder
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from emcfsys_engine.run.events import LabelsJoined, ValidationDone, read_events
from emcfsys_engine.run.folder import Run
from tests.bench.machine import machine_line
from tests.bench.quality import SETS, engine
from tests.bench.terminal import project_environment

_SIZE = (100, 30)  # columns, lines
_DRAWN = ("spot3_0d_3", "spot4_0d_3", "spot7_0d_5")  # the person's first outlines
_BETWEEN_S = 15  # two of them; a real person takes longer
_LEARNED, _MORE = 12, 4  # validations after the first labels, and after the corrected ones
_COLOURS = 48  # of a picture: a terminal shows few
_BLACK = TerminalTheme((0, 0, 0), (200, 200, 200), [(0, 0, 0)] * 8)


class Terminal:
    """A terminal of a person, and pictures of it."""

    def __init__(self, place: Path, pictures: Path) -> None:
        self._pictures = pictures
        self._socket = f"film-{os.getpid()}"
        self._place = place

    def start(self, *words: str) -> None:
        """Start the interface in a terminal of its own."""
        world = project_environment(self._place / "home")
        program = [f"{name}={value}" for name, value in world.items()]
        program += [sys.executable, "-m", "emcfsys_tui", *words]
        size = ["-x", str(_SIZE[0]), "-y", str(_SIZE[1]), "-c", str(self._place)]
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "env", *program)

    def press(self, *keys: str) -> None:
        """Press keys, as tmux calls them."""
        self._tmux("send-keys", *keys)

    def write(self, words: str) -> None:
        """Replace what stands in a line."""
        self.press("C-u")
        self._tmux("send-keys", "-l", words)
        self.press("Enter")

    def shows(self, *words: str, limit_s: float = 600) -> None:
        """Wait until all words are on the screen."""
        until(lambda: all(word in self._screen() for word in words), str(words), limit_s)

    def picture(self, name: str) -> None:
        """Keep what is on the screen, once toasts are gone and two looks are the same."""
        before = ""
        until(lambda: "▌" not in self._screen(), "no toast")
        while before != (before := self._screen("-eN")):
            time.sleep(2)
        console = Console(
            record=True, width=_SIZE[0], file=io.StringIO(), color_system="truecolor",
            force_terminal=True,
        )  # fmt: skip
        for line in AnsiDecoder().decode(before.rstrip("\n")):  # its styles go on from line to line
            console.print(line, no_wrap=True, crop=True)
        with tempfile.TemporaryDirectory() as folder:
            svg, shot = Path(folder, "a.svg"), Path(folder, "a.png")
            svg.write_text(console.export_svg(title="", theme=_BLACK))
            words = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1240,800"]
            command = ["chromium", *words, f"--screenshot={shot}", svg.as_uri()]
            subprocess.run(command, check=True, capture_output=True)
            with Image.open(shot) as whole:  # without the frame that is drawn around it
                seen = whole.convert("RGB").crop((9, 50, 1231, 790))
        few = seen.quantize(_COLOURS, dither=Image.Dither.NONE)
        few.save(self._pictures / f"{name}.png", optimize=True)
        print(f"{name}: {(self._pictures / f'{name}.png').stat().st_size:,} bytes", flush=True)

    def end(self) -> None:
        """Close the terminal, and end what was started from it."""
        subprocess.run(["tmux", "-L", self._socket, "kill-server"], capture_output=True)
        words = [sys.executable, "-m", "emcfsys_engine", "daemon", "stop", "--jobs"]
        world = {**os.environ, **project_environment(self._place / "home")}
        subprocess.run(words, env=world, capture_output=True)

    def _screen(self, *words: str) -> str:
        return self._tmux("capture-pane", "-p", *words)

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-L", self._socket, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Person:
    """Draws in Labelme, on a computer of their own; what is saved comes into the folder."""

    def __init__(self, folder: Path, terminal: Path) -> None:
        self._folder, self._desk = folder, terminal

    def prepare(self) -> None:
        """Know every outline: those of the set's masks."""
        masks = self._desk.parent / "masks"
        masks.mkdir()
        for image, mask in _pairs():
            shutil.copy(mask, masks / f"{image.stem}.png")
        words = ("--images", self._folder, "--project", self._folder, "--out", self._desk)
        engine("convert", masks, "--to", "labelme", *words)

    def save(self, name: str) -> None:
        """Write the Labelme file of an image, over a suggestion where one lies there."""
        drawn = json.loads((self._desk / f"{name}.json").read_text())
        file = self._folder / f"{name}.json"
        said = json.loads(file.read_text()) if file.exists() else drawn
        # Labelme keeps the flags of what it opened, and writes the file in place.
        document = {**said, "shapes": drawn["shapes"], "imagePath": f"{name}.png"}
        with file.open("w") as stream:
            json.dump(document, stream, ensure_ascii=False, indent=2)


def main() -> None:
    """Film it all, and say how long it took until the first useful mask."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path, default=Path(".github/screens"))
    arguments = parser.parse_args()
    print(machine_line(), flush=True)
    place: Path = arguments.folder.absolute()
    folder = place / "superalloy"
    folder.mkdir(parents=True)
    for image, _ in _pairs():
        shutil.copy(image, folder / image.name)
    terminal = Terminal(place, arguments.pictures.absolute())
    try:
        _film(terminal, Person(folder, place / "labelme"), folder)
    finally:
        terminal.end()


def _film(terminal: Terminal, person: Person, folder: Path) -> None:
    terminal.start(str(folder))
    terminal.shows("name classes", "none labelled")
    terminal.press("c")
    terminal.shows("nobody draws")
    terminal.write("matrix, large, small")
    terminal.shows("matrix  ", "large  ", "small  ")
    terminal.picture("first-1-classes")
    terminal.press("Enter")
    terminal.shows("○ spot1_0d_0", "Nothing to mend")
    terminal.press("2")
    terminal.shows("waits for labels")
    terminal.press("s")
    terminal.shows("● waiting", "Waits for labels: 0 images")
    terminal.picture("first-2-waiting")
    person.prepare()
    run = Run(folder / "runs" / "run-0001")
    for name in _DRAWN:
        person.save(name)
        time.sleep(_BETWEEN_S)
    began = time.time() - len(_DRAWN) * _BETWEEN_S
    until(lambda: _num_since(run, 0) >= _LEARNED, "validations", 1800)
    terminal.picture("first-3-learning")
    terminal.press("1")
    terminal.shows("3 ●")
    terminal.press("S")
    terminal.shows("Fill in label files")
    terminal.write("2")
    terminal.shows("2 suggestions", limit_s=900)
    terminal.press("U")
    terminal.shows("prediction:", "2 ◇")
    terminal.picture("first-4-suggestion")
    for file in _suggested(folder):
        person.save(file)
        time.sleep(_BETWEEN_S)
    terminal.shows("5 ●")
    terminal.press("3")
    until(lambda: _num_since(run, 5) >= _MORE, "validations of five images", 1800)
    terminal.picture("first-5-corrected")
    terminal.press("x", "Down", "Enter")
    terminal.shows("✓ done", limit_s=1800)
    terminal.press("1")
    terminal.shows("9 ○ 5 ●")
    terminal.press("P")
    until((folder / "predicted" / "0" / "ranking.json").is_file, "masks", 900)
    terminal.press("u")
    terminal.shows("prediction:", "9 ◇")
    terminal.picture("first-6-masks")
    for event in read_events(run.events_file):
        if isinstance(event, ValidationDone):
            print(f"{event.time - began:.0f} s, step {event.step}: mean IoU {event.mean_iou:.3f}")


def _pairs() -> list[tuple[Path, Path]]:
    data = SETS["superalloy"]
    return [*data.pairs(data.train), *data.pairs(data.val)]


def _suggested(folder: Path) -> list[str]:
    """Return the images whose label files wait to be saved."""
    files = [file for file in folder.glob("*.json") if '"suggestion": true' in file.read_text()]
    return sorted(file.stem for file in files)


def _num_since(run: Run, num_labelled: int) -> int:
    """Return the number of validations since so many images are labelled."""
    events = list(read_events(run.events_file)) if run.events_file.exists() else []
    since = 0 if num_labelled == 0 else None
    for place, event in enumerate(events):
        if isinstance(event, LabelsJoined) and event.num_train + event.num_val >= num_labelled:
            since = place if since is None else since
    if since is None:
        return 0
    return sum(isinstance(event, ValidationDone) for event in events[since:])


def until(condition: Callable[[], bool], what: str, limit_s: float = 120) -> None:
    """Wait for a condition; end the film where it does not come."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come in {limit_s:.0f} s")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
