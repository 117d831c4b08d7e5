"""The names of all keys, wherever they act: what [keys] in interface.toml may say."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules

from textual.binding import Binding
from textual.dom import DOMNode

from emcfsys_engine.settings import config_file


def known_names() -> frozenset[str]:
    """Return the name of every key of the interface."""
    for room in ("emcfsys_tui.screens", "emcfsys_tui.widgets"):
        for module in iter_modules(import_module(room).__path__):
            import_module(f"{room}.{module.name}")
    bindings = (one for kind in _kinds(DOMNode) for one in kind.__dict__.get("BINDINGS", ()))
    return frozenset(one.id for one in bindings if isinstance(one, Binding) and one.id)


def faults_of(keys: Mapping[str, str]) -> list[str]:
    """Return a line for each name that is none, with the nearest one."""
    known = known_names()
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
