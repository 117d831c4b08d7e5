"""Facts of files, remembered by path and what changes with a file: a second look costs nothing."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.annotations.contradictions import contradictions
from emcfsys_engine.annotations.masks import LabelTable, MaskFacts, mask_facts
from emcfsys_engine.errors import InputError
from emcfsys_engine.files import write_whole
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.own_files import stamp_of_image
from emcfsys_engine.project import Project
from emcfsys_engine.settings import cache_home

Fact = TypeVar("Fact")
# 2: white-is-zero, CMYK, transparent as viewers show; 3: in palettes; 4: PNG turned;
# 5: by all its notes, palettes of each page, planes in the order of pages
_FORMAT = 5
_LARGEST_BYTES = 256 << 20


class FactsCache:
    """A table of facts that can be thrown away at any time; without a file it is empty."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known: dict[str, Any] = _load(file)
        self._used: dict[str, Any] = {}
        self._stamps: dict[Path, str] = {}

    def get(self, path: Path, key: str, kind: type[Fact]) -> Fact | None:
        """Return what is remembered of this file as it is now, or None."""
        name = self._name(path, key)
        raw = self._used.get(name, self._known.get(name))
        if raw is None:
            return None
        try:
            fact = msgspec.convert(raw, kind)
        except msgspec.ValidationError:
            return None  # written by another version
        self._used[name] = raw
        return fact

    def put(self, path: Path, key: str, fact: object) -> None:
        """Remember a fact of this file as it is now."""
        self._used[self._name(path, key)] = msgspec.to_builtins(fact)

    def save(self) -> None:
        """Write what was used this time; a cache that cannot be written is done without."""
        if self._file is None or self._used.items() <= self._known.items():
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # Facts of a file as it was before it changed are dropped.
            seen = {name.split("|", 1)[0] for name in self._used}
            stamps = set(self._stamps.values())
            kept = {
                name: fact
                for name, fact in self._known.items()
                if name.split("|", 1)[0] not in seen or name.rsplit("|", 1)[0] in stamps
            }
            document = {"format": _FORMAT, "facts": kept | self._used}
            write_whole(self._file, any_names.encode(document))
        except OSError:
            self._file = None

    def _name(self, path: Path, key: str) -> str:
        if path not in self._stamps:
            # A copy that keeps times changes the system's own time, or is another file.
            self._stamps[path] = f"{path}|{stamp_of_image(path)[0]}"
        return f"{self._stamps[path]}|{key}"


def cache_of(project_file: Path) -> FactsCache:
    """Return the cache of a project; it lives in the user's cache folder, never in the project."""
    name = hashlib.blake2b(os.fsencode(project_file), digest_size=8).hexdigest()
    return FactsCache(cache_home() / f"facts-{name}.json")


def _load(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            return {}
        document: Any = any_names.read(file, Any)
    except OSError:
        return {}
    known = document.get("facts") if isinstance(document, dict) else None
    return known if isinstance(known, dict) and document.get("format") == _FORMAT else {}


_THREADS = 2  # decoding releases Python's lock; more threads would only cost memory
_AT_ONCE = 64  # so that a thousand decoded results never wait in memory


def scan_masks(
    masks: Sequence[ImageRef],
    table: LabelTable,
    faults: list[InputError],
    cache: FactsCache,
    project: Project,
) -> dict[ImageRef, MaskFacts]:
    """Return the facts of each mask; one that cannot be read becomes a fault.

    So do masks whose values mean other classes than those of others.
    """
    found: dict[ImageRef, MaskFacts] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(masks), _AT_ONCE):
            part = masks[start : start + _AT_ONCE]
            results = threads.map(lambda mask: _facts(mask, table, cache), part)
            for mask, result in zip(part, results, strict=True):
                if isinstance(result, InputError):
                    faults.append(result)
                else:
                    found[mask] = result
    faults += contradictions([*found.items()], table, project.class_values)
    return found


def _facts(mask: ImageRef, table: LabelTable, cache: FactsCache) -> MaskFacts | InputError:
    key = f"mask:{mask.plane}:{bool(table.colours)}"
    known = cache.get(mask.path, key, MaskFacts)
    if known is not None:
        return known
    try:
        facts = mask_facts(mask, table)
    except InputError as fault:
        return fault
    cache.put(mask.path, key, facts)
    return facts
