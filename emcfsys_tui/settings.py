"""The keys, theme and pictures a person set in interface.toml, and what the interface remembers."""

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import msgspec
import tomli
from textual.binding import Binding
from textual.dom import DOMNode
from textual.theme import Theme

from emcfsys_engine import any_names
from emcfsys_engine.colours import colours_for, readable
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.files import plain_bytes, write_whole
from emcfsys_engine.jobs.state_folder import prepare, state_folder
from emcfsys_engine.settings import config_file, nearest
from emcfsys_tui.widgets.canvas import Colour


def shown(
    keys: str, action: str, word: str, name: str, about: str = "", face: str | None = None
) -> Binding:
    """Return a key that stands in the line below; `face` is how it is written there."""
    return Binding(keys, action, word, key_display=face, tooltip=about, id=name)


def quiet(
    keys: str, action: str, word: str, name: str, about: str = "", face: str | None = None
) -> Binding:
    """Return a key that help and palette tell of."""
    return Binding(keys, action, word, show=False, key_display=face, tooltip=about, id=name)


DARK, LIGHT, SAFE_DARK, SAFE_LIGHT = (
    "emcfsys-dark",
    "emcfsys-light",
    "colour-blind-dark",
    "colour-blind-light",
)

COLOUR_BLIND = (SAFE_DARK, SAFE_LIGHT)
THEMES = (
    Theme(
        name=DARK,
        primary="#6cb6ff",
        secondary="#8ddb8c",
        accent="#f69d50",
        foreground="#d7dde5",
        background="#14181d",
        surface="#14181d",
        panel="#20262e",
        success="#8ddb8c",
        warning="#f0c674",
        error="#ff8080",
        dark=True,
    ),
    Theme(
        name=LIGHT,
        primary="#0b5cad",
        secondary="#1a7f37",
        accent="#b35900",
        foreground="#1f2328",
        background="#fbfbfa",
        surface="#fbfbfa",
        panel="#e8eaed",
        success="#1a7f37",
        warning="#8a5a00",
        error="#c02026",
        dark=False,
    ),
    Theme(
        name=SAFE_DARK,
        primary="#56b4e9",
        secondary="#f0e442",
        accent="#e69f00",
        foreground="#dddddd",
        background="#121212",
        surface="#121212",
        panel="#262626",
        success="#56b4e9",
        warning="#f0e442",
        error="#e69f00",
        dark=True,
    ),
    Theme(
        name=SAFE_LIGHT,
        primary="#0072b2",
        secondary="#7a4f00",
        accent="#a84300",
        foreground="#111111",
        background="#ffffff",
        surface="#ffffff",
        panel="#e6e6e6",
        success="#0072b2",
        warning="#7a4f00",
        error="#a84300",
        dark=False,
    ),
)

# Curves and classes, in the order in which they are handed out. Safe: Okabe and Ito 2008.
_SAFE: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
)
_SAFE_ON_WHITE: tuple[Colour, ...] = (
    (0, 114, 178),
    (190, 110, 0),
    (0, 130, 95),
    (170, 80, 130),
    (130, 120, 0),
    (190, 75, 0),
)
_CURVES: dict[str, tuple[Colour, ...]] = {
    DARK: (
        (108, 182, 255),
        (246, 157, 80),
        (141, 219, 140),
        (220, 150, 240),
        (240, 198, 116),
        (100, 215, 215),
    ),
    LIGHT: (
        (11, 92, 173),
        (179, 89, 0),
        (26, 127, 55),
        (130, 50, 160),
        (138, 90, 0),
        (0, 120, 125),
    ),
    SAFE_DARK: _SAFE,
    SAFE_LIGHT: _SAFE_ON_WHITE,
    "ansi-dark": (12, 11, 10, 13, 14, 9),
    "ansi-light": (4, 3, 2, 5, 6, 1),
}


def curve_colours(theme: str, background: str, *, dark: bool) -> tuple[Colour, ...]:
    """Return six colours that stand apart on this theme's background."""
    colours = _CURVES.get(theme, _SAFE if dark else _SAFE_ON_WHITE)
    if theme in _ANSI_CLASSES:
        return colours
    paper = _rgb(background) or ((0, 0, 0) if dark else (255, 255, 255))
    return tuple(one if isinstance(one, int) else readable(one, paper) for one in colours)


# In sixteen colours: the nearest to the classes' own, in their order.
_ANSI_CLASSES = {"ansi-dark": (7, 3, 14, 2, 11, 12, 9, 13), "ansi-light": (8, 3, 6, 2, 5, 4, 1, 0)}


def class_colours(theme: str, background: str, num_classes: int) -> tuple[Colour, ...]:
    """Return the classes' own colours, as light or dark as text on this theme needs."""
    ansi = _ANSI_CLASSES.get(theme)
    if ansi is not None:
        return tuple(ansi[number % len(ansi)] for number in range(num_classes))
    paper = _rgb(background) or (0, 0, 0)
    return tuple(readable(colour, paper) for colour in colours_for(num_classes))


_WORDS = ("foreground", "primary", "secondary", "accent", "success", "warning", "error", "dim")
_PAPERS = ("background", "surface", "panel", "cursor")


def readable_words(variables: Mapping[str, str]) -> dict[str, str]:
    """Return a theme's colours of words, as light or dark as all its papers need.

    The paper of the cursor carries the tones of rows, but none that is dim.
    """
    papers = {name: found for name in _PAPERS if (found := _rgb(variables.get(name, "")))}
    words: dict[str, str] = {}
    for name in _WORDS:
        colour = _rgb(variables.get(name, ""))
        if colour is None:
            continue
        for paper in papers:
            if (name, paper) != ("dim", "cursor"):
                colour = readable(colour, papers[paper])
        words[name] = "#{:02x}{:02x}{:02x}".format(*colour)
    return words


def _rgb(colour: str) -> tuple[int, int, int] | None:
    """Return the parts of "#rrggbb"; None for anything else."""
    if not re.fullmatch("#[0-9A-Fa-f]{6}", colour):
        return None
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


LEAST_COLUMNS, LEAST_LINES = 60, 16  # a smaller terminal is asked to grow
GRAPHICS = ("sixel", "kitty")
PICTURES = ("grey", "colour", *GRAPHICS)
_KEYS = ("theme", "bell", "pictures", "keys")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the interface looks and which keys it listens to."""

    theme: str = ""
    bell: bool = True
    # Half-blocks: grey with coloured overlays, or all in true colour; or the terminal's own pixels.
    pictures: str = "grey"
    keys: dict[str, str] = {}
    faults: tuple[str, ...] = ()


def load_settings() -> Settings:
    """Read the settings; what is wrong in them is told, and left out."""
    file = config_file().with_name("interface.toml")
    try:
        document: dict[str, Any] = tomli.loads(plain_bytes(file).decode("utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError, RecursionError) as error:
        return Settings(faults=(f"{file}: {error}",))
    faults = [
        f"{file}: {key}: is no setting. {nearest(key, _KEYS)}"
        for key in document
        if key not in _KEYS
    ]
    theme, bell = document.get("theme", ""), document.get("bell", True)
    pictures, keys = document.get("pictures", "grey"), document.get("keys", {})
    if not isinstance(theme, str):
        faults.append(f'{file}: theme: is no text. Write theme = "emcfsys-dark"')
        theme = ""
    if not isinstance(bell, bool):
        faults.append(f"{file}: bell: is neither true nor false")
        bell = True
    if pictures not in PICTURES:
        faults.append(f"{file}: pictures: {nearest(str(pictures), PICTURES)}")
        pictures = "grey"
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
        faults.append(f'{file}: keys: write lines like "runs.mark" = "m"')
        keys = {}
    return Settings(theme=theme, bell=bell, pictures=str(pictures), keys=keys, faults=tuple(faults))


def known_keys() -> frozenset[str]:
    """Return the name of every key of the interface."""
    for room in ("emcfsys_tui.screens", "emcfsys_tui.widgets"):
        for module in iter_modules(import_module(room).__path__):
            import_module(f"{room}.{module.name}")
    bindings = (one for kind in _kinds(DOMNode) for one in kind.__dict__.get("BINDINGS", ()))
    return frozenset(one.id for one in bindings if isinstance(one, Binding) and one.id)


def key_faults(keys: Mapping[str, str]) -> list[str]:
    """Return a line for each name that is none, with the nearest one."""
    known = known_keys()
    file = config_file().with_name("interface.toml")
    faults: list[str] = []
    for name in keys:
        if name not in known:
            near = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            remedy = f"Did you mean {near[0]!r}?" if near else "? tells the names"
            faults.append(f"{file}: keys.{name}: is no key's name. {remedy}")
    return faults


def _kinds(kind: type[DOMNode]) -> Iterator[type[DOMNode]]:
    for one in kind.__subclasses__():
        yield one
        yield from _kinds(one)


# What the interface remembers between two starts: where the person was, and which runs are pinned.
#
# Both are small files in the state folder, written whole. What is damaged in them is done without.

_NUM_RECENT = 20


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the interface remembers between two starts."""

    recent: tuple[str, ...] = ()
    place: str = ""  # the project that was open last; empty: the list
    tab: str = "runs"
    theme: str = ""


def remembered() -> Memory:
    """Return what the last start left."""
    try:
        found: Memory | None = any_names.read(state_folder() / "interface.json", Memory)
    except OSError:
        found = None
    return found or Memory()


def remember(memory: Memory) -> None:
    """Keep this for the next start; a folder that cannot be written is done without."""
    try:
        file = prepare(state_folder()) / "interface.json"
        write_whole(file, any_names.encode(memory))
    except (OSError, EmcfError):
        return


def with_recent(memory: Memory, folder: Path, tab: str) -> Memory:
    """Return the memory with this project as the newest."""
    others = [place for place in memory.recent if place != str(folder)]
    recent = (str(folder), *others)[:_NUM_RECENT]
    return msgspec.structs.replace(memory, recent=recent, place=str(folder), tab=tab)


_NUM_PINNED = 200  # projects whose pins are kept
_Pins = dict[str, tuple[str, ...]]  # project folder: its pinned runs


def pinned_runs(folder: Path) -> tuple[frozenset[str], str]:
    """Return the runs of a project that are pinned, and what is wrong with the file of pins."""
    file = state_folder() / "pins.json"
    try:
        pins: _Pins | None = any_names.read(file, _Pins)
        is_damaged = pins is None and file.exists()
    except OSError as error:
        return frozenset(), f"{file}: {error.strerror}: no run is pinned"
    fault = f"{file}: is damaged: no run is pinned; the next pin writes it anew"
    return frozenset((pins or {}).get(str(folder), ())), fault if is_damaged else ""


def pin_runs(folder: Path, runs: Collection[str]) -> None:
    """Keep which runs of a project are pinned, and what is kept of the other projects.

    Raises: EmcfError or OSError where the state folder cannot be written.
    """
    file = prepare(state_folder()) / "pins.json"
    pins: _Pins = any_names.read(file, _Pins) or {}
    pins.pop(str(folder), None)
    kept = dict(list(pins.items())[-_NUM_PINNED:])
    if runs:
        kept[str(folder)] = tuple(sorted(runs))
    write_whole(file, any_names.encode(kept))
