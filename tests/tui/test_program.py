"""The real program on a real terminal: start, resize, colours, a clean end, crashes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from emcfsys_tui.__main__ import main
from tests.bench.terminal import Terminal, project_environment
from tests.tui.conftest import made_run
from tests.waiting import PATIENCE_S

_PROGRAM = [sys.executable, "-m", "emcfsys_tui"]


def _run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [*_PROGRAM, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root, **environment},
    )


def test_without_a_terminal_it_says_what_there_is_and_ends_with_0(demo: Path) -> None:
    made_run(demo)
    done = _run(str(demo))
    assert done.returncode == 0
    assert "run-0001" in done.stdout and "done" in done.stdout
    assert "\x1b" not in done.stdout
    assert "demo" in _run().stdout or "No projects here" in _run().stdout


def test_a_dumb_terminal_gets_text(demo: Path, world: Path) -> None:
    environment = {**project_environment(world), "TERM": "dumb"}
    terminal = Terminal([*_PROGRAM, str(demo)], environment=environment)
    try:
        terminal.wait_for("no runs yet")
        assert "\x1b" not in terminal.text
        assert terminal.child.wait(timeout=PATIENCE_S) == 0
    finally:
        terminal.close()


def test_ctrl_c_while_it_ends_says_nothing(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ending(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("emcfsys_tui.__main__._start", ending)
    with pytest.raises(SystemExit) as ended:
        main([str(demo)])
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_a_folder_without_a_project_is_one_line_and_exit_2(tmp_path: Path) -> None:
    done = _run(str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "emcfsys-engine new" in done.stderr


def test_on_a_terminal_a_folder_of_images_is_offered_as_a_project_unless_only_looked_at(
    world: Path, tmp_path: Path
) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    for words, told in (([], "make it"), (["--read-only"], "emcfsys-engine new")):
        command = [*_PROGRAM, *words, str(tmp_path)]
        terminal = Terminal(command, environment=project_environment(world))
        try:
            terminal.wait_for(told)
        finally:
            terminal.close()
    assert not (tmp_path / "project.toml").exists()


def test_nothing_heavy_is_loaded_at_the_start() -> None:
    code = (
        "import sys, emcfsys_tui.__main__, emcfsys_tui.app, emcfsys_tui.screens.project\n"
        "import emcfsys_tui.widgets.runs_pane, emcfsys_tui.widgets.data_pane\n"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'skimage', 'segmentation_models_pytorch'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("term", ["xterm-256color", "screen", "linux"])
def test_quitting_leaves_a_clean_terminal(demo: Path, world: Path, term: str) -> None:
    environment = {**project_environment(world), "TERM": term}
    terminal = Terminal([*_PROGRAM, str(demo)], environment=environment)
    try:
        terminal.wait_for("Hot folder")
        assert "38;2;" not in terminal.text  # no true colours where they were not offered
        terminal.press("q")
        terminal.wait_for(r"\x1b\[\?1049l")
        assert terminal.child.wait(timeout=PATIENCE_S) == 0
    finally:
        terminal.close()


def test_it_follows_the_size_of_its_terminal_whatever_a_shell_exports(
    demo: Path, world: Path
) -> None:
    environment = {**project_environment(world), "COLUMNS": "80", "LINES": "24"}
    terminal = Terminal([*_PROGRAM, str(demo)], environment=environment, size=(200, 60))
    try:
        terminal.wait_for("cell_0000")
        for columns, lines, words in ((50, 12, "make it 60"), (60, 16, "palette")):
            terminal.text = ""
            terminal.resize(columns, lines)
            terminal.child.send_signal(signal.SIGWINCH)
            terminal.wait_for(words)
    finally:
        terminal.close()


@pytest.mark.parametrize(
    "lang",
    ["C", *(pytest.param(one, marks=pytest.mark.long) for one in ("POSIX", "en_US.ISO-8859-1"))],
)
def test_a_plain_locale_and_300_000_lines_of_a_log_are_shown(
    demo: Path, world: Path, lang: str
) -> None:
    run = made_run(demo)
    run.log_file.write_text("".join(f"line {n} \u00b5m\n" for n in range(300_000)))
    environment = {**project_environment(world), "LANG": lang, "LC_ALL": lang}
    terminal = Terminal([*_PROGRAM, str(demo)], environment=environment, size=(100, 30))
    try:
        terminal.wait_until_shown("mitochondrion")
        terminal.press("q")
        assert terminal.child.wait(timeout=PATIENCE_S) == 0
    finally:
        terminal.close()


def test_a_terminal_of_20_by_5_says_what_it_needs_and_quits(demo: Path, world: Path) -> None:
    terminal = Terminal(
        [*_PROGRAM, str(demo)], environment=project_environment(world), size=(20, 5)
    )
    try:
        terminal.wait_until_shown("make it 60")
        terminal.press("q")
        assert terminal.child.wait(timeout=PATIENCE_S) == 0
    finally:
        terminal.close()


def test_a_hang_up_ends_it_and_its_children(demo: Path, world: Path) -> None:
    terminal = Terminal([*_PROGRAM, str(demo)], environment=project_environment(world))
    try:
        terminal.wait_for("Hot folder")
        terminal.press("1")
        terminal.wait_for("cell_0001")
        terminal.child.send_signal(signal.SIGHUP)
        terminal.child.wait(timeout=PATIENCE_S)
        _wait(lambda: not _decoders_of(str(demo)))
    finally:
        terminal.close()


def test_a_terminal_that_vanishes_without_a_word_ends_it_and_its_children(
    demo: Path, world: Path
) -> None:
    terminal = Terminal([*_PROGRAM, str(demo)], environment=project_environment(world))
    terminal.wait_for("Hot folder")
    terminal.press("1")
    terminal.wait_for("cell_0001")
    terminal.hang_up()
    assert terminal.child.wait(timeout=PATIENCE_S) == 128 + signal.SIGHUP
    _wait(lambda: not _decoders_of(str(demo)))
    assert str(demo) in (world / "state" / "interface.json").read_text()  # where the person was


@pytest.mark.parametrize("seen", ["Hot folder", r"\x1b\[\?1049h"])  # drawn, or about to be
@pytest.mark.parametrize("key", ["q", ""])
def test_who_leaves_at_once_finds_a_clean_terminal(
    demo: Path, world: Path, seen: str, key: str
) -> None:
    terminal = Terminal([*_PROGRAM, str(demo)], environment=project_environment(world))
    try:
        terminal.wait_for(seen)
        if key:
            terminal.press(key)
        else:
            terminal.child.send_signal(signal.SIGTERM)
        terminal.wait_for(r"\x1b\[\?1049l")
        assert terminal.child.wait(timeout=PATIENCE_S) == 0
    finally:
        terminal.close()


def test_a_mistake_of_ours_becomes_a_report(demo: Path, world: Path) -> None:
    code = (
        "import sys\nfrom emcfsys_tui.widgets.runs_pane import RunsPane\n"
        "def broken(self): raise RuntimeError('a mistake [/bold]')\n"
        "RunsPane.action_smooth = broken\n"
        f"from emcfsys_tui.__main__ import main\nmain([{str(demo)!r}])"
    )
    terminal = Terminal([sys.executable, "-c", code], environment=project_environment(world))
    try:
        terminal.wait_for("Hot folder")
        terminal.press("3")
        terminal.wait_for("No runs yet")
        terminal.press("S")
        terminal.wait_for("The report is in")
        assert terminal.child.wait(timeout=PATIENCE_S) == 1
        (report,) = (world / "state").glob("crash-*.txt")
        assert "a mistake [/bold]" in report.read_text()
        assert "1049l" in terminal.text or "a mistake" in terminal.text
    finally:
        terminal.close()


@pytest.fixture
def tmux(world: Path) -> Iterator[Callable[..., str]]:
    """A tmux of its own; commands go to it by socket."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    socket = str(world / "tmux")

    def call(*arguments: str) -> str:
        command = ["tmux", "-S", socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout

    yield call
    call("kill-server")


@pytest.mark.parametrize("colours", ["screen-256color", "screen"])
def test_in_tmux_it_starts_hears_keys_and_quits(
    demo: Path, world: Path, tmux: Callable[..., str], colours: str
) -> None:
    made_run(demo)
    names = project_environment(world)
    words = [f"{name}={value}" for name, value in names.items()]
    program = " ".join(["env", f"TERM={colours}", *words, *_PROGRAM, str(demo)])
    tmux("new-session", "-d", "-x", "200", "-y", "60", "-s", "t", f"{program}; echo END $?; cat")
    _wait(lambda: "run-0001" in tmux("capture-pane", "-p", "-t", "t"))
    tmux("send-keys", "-t", "t", "6")
    _wait(lambda: "No model files" in tmux("capture-pane", "-p", "-t", "t"))
    tmux("send-keys", "-t", "t", "q")
    _wait(lambda: "END 0" in tmux("capture-pane", "-p", "-t", "t"))


def _decoders_of(place: str) -> list[str]:
    found = subprocess.run(["pgrep", "-f", f"decoder.*{place}"], capture_output=True, text=True)
    return found.stdout.split()


def _wait(condition: Callable[[], object], *, limit_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)
