"""Where the names of a mask's values come from: a project, a model file, or the run beside it."""

import os
from dataclasses import dataclass
from pathlib import Path

from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.errors import InputError
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import PredictRequest, Run

_LEVELS = 4  # predictions mirror the sub-folders of their input


@dataclass(frozen=True, kw_only=True)
class NamedClasses:
    """Class names with their values; None where nobody names them. Units: pixel_nm is a side."""

    classes: dict[str, int] | None = None
    pixel_nm: float | None = None  # of the project: for files that do not say theirs
    notes: tuple[str, ...] = ()


def classes_for(masks: str, *, project: Path | None, model: Path | None) -> NamedClasses:
    """Return the classes of the project or model given, else of the model that made the masks.

    Raises: InputError when both are given, or one cannot be read.
    """
    if project is not None and model is not None:
        raise InputError("--model", "names classes, and so does --project", "Give one of the two")
    if project is not None:
        loaded = load_project(project)
        return NamedClasses(classes=loaded.classes, pixel_nm=loaded.project.pixel_nm)
    if model is not None:
        return NamedClasses(classes=_classes_of(model))
    maker = _model_of(masks)
    if maker is None:
        return NamedClasses()
    try:
        classes = _classes_of(maker)
    except InputError as fault:
        return NamedClasses(notes=(f"the model that made the masks cannot be asked: {fault}",))
    return NamedClasses(classes=classes, notes=(f"classes as {maker} names them",))


def _classes_of(model: Path) -> dict[str, int]:
    card = read_card(model)
    return dict(zip(card.classes, card.class_values, strict=True))


def _model_of(masks: str) -> Path | None:
    """Return the model of the newest prediction that wrote into this folder or one above it."""
    start = root_of(masks, Path.cwd())
    for folder in (start, *start.parents)[:_LEVELS]:
        try:
            names = sorted(os.listdir(folder / ".emcfsys"), reverse=True)
        except OSError:
            continue
        for name in names:
            try:
                request = Run(folder / ".emcfsys" / name).record().request
            except InputError:
                continue  # another thing that lies there, as a hot folder's ledger
            if isinstance(request, PredictRequest):
                return Path(request.model)
    return None
