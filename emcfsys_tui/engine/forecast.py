"""The engine as the interface sees it: what a training would do, worked out in a child."""

import subprocess
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine.files import write_whole
from emcfsys_engine.settings import cache_home
from emcfsys_tui.engine.runs import run_command
from emcfsys_tui.view_models import FieldFault, FindingRow, Forecast, PlanRow

_FEWEST_NAMES = 100  # a list with fewer was cut short


class Forecaster:
    """Asks what a training would do; a newer question ends the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    def read(self, overrides: tuple[str, ...]) -> Forecast | None:
        """Return plan, time and errors of a training with these settings.

        None: it was asked again meanwhile, and this child ended for the sake of the newer one.
        """
        mine: list[subprocess.Popen[bytes]] = []
        settings = [word for one in overrides for word in ("--set", one)]
        command = ["plan", str(self.folder), "--json", *settings]

        def keep(child: "subprocess.Popen[bytes]") -> None:
            self.end()
            self._child = child
            mine.append(child)

        done = run_command(command, is_look=True, on_start=keep)
        if mine[0] is not self._child:
            return None
        try:
            found: dict[str, Any] = msgspec.json.decode(done.out)
        except msgspec.DecodeError:
            return Forecast(overrides=overrides, fault=done.words or "it ended without a word")
        return Forecast(
            overrides=overrides,
            rows=tuple(msgspec.convert(found["rows"], list[PlanRow])),
            errors=tuple(msgspec.convert(found["errors"], list[FindingRow])),
            num_warnings=found["num_warnings"],
        )

    def end(self) -> None:
        """End the child: nobody waits for its answer."""
        if self._child is not None:
            self._child.kill()


_names: dict[str, frozenset[str]] = {}  # by timm's version


def known_backbones() -> frozenset[str]:
    """Return the names that timm knows, without loading it: a child lists them once a version.

    Empty where it cannot be asked.
    """
    metadata = import_module("importlib.metadata")
    try:
        version: str = metadata.version("timm")
    except metadata.PackageNotFoundError:
        return frozenset()
    if version not in _names:
        file = cache_home() / f"backbones-{version}.txt"
        try:
            names = file.read_text("utf-8").split()
        except (OSError, ValueError):
            names = run_command(["models", "--names"], is_look=True).out.split()
            _keep_names(file, names)
        if len(names) < _FEWEST_NAMES:
            return frozenset()
        _names[version] = frozenset(names)
    return _names[version]


def _keep_names(file: Path, names: list[str]) -> None:
    if len(names) < _FEWEST_NAMES:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, "\n".join(names).encode())
    except OSError:
        return  # asked again at the next start


def backbone_fault(name: str, known: frozenset[str]) -> FieldFault | None:
    """Return what is wrong with a backbone's name, with the nearest ones; None when it is known."""
    base = name.strip().partition(".")[0]
    if not base or not known or base in known:
        return None
    near = get_close_matches(base, sorted(known), n=3, cutoff=0.5)
    remedy = f"Near: {', '.join(near)}" if near else "List them: emcfsys-engine models"
    return FieldFault(key="model.backbone", text=f"timm has no backbone {name!r}. {remedy}")
