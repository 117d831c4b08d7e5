"""How many images and labels a project had when its data were last read: light, for a list."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emcfsys_engine import any_names
from emcfsys_engine.files import changed_ns, write_whole
from emcfsys_engine.project import Project
from emcfsys_engine.settings import cache_home


def remember_counts(project: Project, num_images: int, num_labelled: int) -> None:
    """Keep what was counted; a cache that cannot be written is done without."""
    document = {"stamp": _stamp(project), "images": num_images, "labelled": num_labelled}
    try:
        _file(project).parent.mkdir(parents=True, exist_ok=True)
        write_whole(_file(project), json.dumps(document).encode())
    except OSError:
        return


def recall_counts(project: Project) -> tuple[int, int] | None:
    """Return (images, labelled images) as last counted; None when files came or went since."""
    try:
        document: Any = any_names.read(_file(project), dict[str, Any]) or {}
        known = int(document["images"]), int(document["labelled"])
        return known if document["stamp"] == _stamp(project) else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def _file(project: Project) -> Path:
    name = hashlib.blake2b(os.fsencode(project.file), digest_size=8).hexdigest()
    return cache_home() / f"counts-{name}.json"


def _stamp(project: Project) -> str:
    """Return what changes when the project is edited, or a file in its folders comes or goes."""
    parts = sorted(f"{path}|{changed_ns(path)}" for path in (project.file, *_folders(project)))
    return hashlib.blake2b("\n".join(parts).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _folders(project: Project) -> Iterator[Path]:
    for source in project.data:
        for place in (source.images, source.masks, source.annotations):
            if place is None:
                continue
            whole = project.folder / Path(place).expanduser()
            while not whole.exists():  # a pattern: the folder that it begins in
                whole = whole.parent
            for folder, below, _ in os.walk(whole):
                below[:] = [name for name in below if name != "runs" and not name.startswith(".")]
                yield Path(folder)
