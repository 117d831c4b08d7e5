"""emcfsys [DIR]: the interface, or one page of text where there is no terminal."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from msgspec.structs import replace

from emcfsys_engine import __version__
from emcfsys_engine.errors import EmcfError, printable

_SWITCH_S = 0.001  # keys are answered while threads read: they give way five times as often
_NEVER = 1 << 30  # so many collections of the young, and Python would look through the old
_ABOUT = """Segment electron micrographs from a terminal.

Without DIR it lists the projects of ./projects and the recent ones; of a folder of images it makes
a project, once you said so.
Example: emcfsys projects/demo
Keys can be changed in ~/.config/emcfsys/interface.toml; ? names them all."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the interface; without a terminal say what there is, and end with 0."""
    parser = argparse.ArgumentParser(
        prog="emcfsys", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, help="a project, or images")
    parser.add_argument("--read-only", action="store_true", help="look, change nothing")
    parser.add_argument(
        "--theme", help="emcfsys-dark, emcfsys-light, colour-blind-dark, ansi-dark …"
    )
    parser.add_argument("--version", action="version", version=f"emcfsys {__version__}")
    wanted = parser.parse_args(arguments)
    try:
        sys.exit(_start(wanted.folder, read_only=wanted.read_only, theme=wanted.theme or ""))
    except EmcfError as error:
        print(f"emcfsys: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # while it ends already: the screen is given back by then
        sys.exit(130)


def has_terminal() -> bool:
    """Tell whether a whole screen can be drawn here."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _start(folder: Path | None, *, read_only: bool, theme: str) -> int:
    is_drawn = has_terminal()
    folder = _project_folder(folder, may_make=is_drawn and not read_only)
    if not is_drawn:
        print(import_module("emcfsys_tui.summary").summary_of(folder))
        return 0
    for name in ("COLUMNS", "LINES"):  # where a shell exports them, they outlive each resize
        os.environ.pop(name, None)
    from_file = import_module("emcfsys_tui.settings").load_settings()
    if theme:
        from_file = replace(from_file, theme=theme)
    gc.disable()  # what is imported stays: to look through it stops the first paint, then keys
    app = import_module("emcfsys_tui.app").EmcfApp(folder, read_only=read_only, settings=from_file)
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)  # the old are looked through while nobody types
    gc.enable()
    sys.setswitchinterval(_SWITCH_S)
    app.run()
    if app.crashed is not None:
        words = printable(f"{type(app.crashed).__name__}: {app.crashed}")
        place = app.crash_file or "nowhere: the state folder cannot be written"
        print(f"emcfsys: a mistake of ours: {words}", file=sys.stderr)
        print(f"The report is in {place}. Jobs are not affected.", file=sys.stderr)
        return 1
    num_active = import_module("emcfsys_tui.summary").num_active_jobs()
    if num_active:
        words = "1 job goes" if num_active == 1 else f"{num_active} jobs go"
        print(f"{words} on: emcfsys-engine jobs")
    return 0


def _project_folder(folder: Path | None, *, may_make: bool) -> Path | None:
    """Return the project's folder, or one of which it may be made: before the screen is taken."""
    if folder is None:
        return None
    place = folder.parent if folder.name == "project.toml" else folder
    if not (place / "project.toml").is_file() and not (may_make and folder.is_dir()):
        load_project = import_module("emcfsys_engine.project").load_project
        load_project(place)  # says that there is none, and how to make one
    return place.absolute()


if __name__ == "__main__":
    main()
