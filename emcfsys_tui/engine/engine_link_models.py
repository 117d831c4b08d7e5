"""The engine as the interface sees it: a project's model files."""

import time
from importlib import import_module
from pathlib import Path
from typing import Any

from emcfsys_engine.errors import EmcfError, InputError, printable
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import load_project, project_from
from emcfsys_engine.run.folder import Run, TrainRequest, list_runs, write_whole
from emcfsys_tui.engine.runs import run_command
from emcfsys_tui.messages import ModelsRead, TextFound
from emcfsys_tui.view_models import ModelRow


class ModelsReader:
    """Follows the model files of a project; called from one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[tuple[str, int, int], ModelRow] = {}
        self._told: tuple[ModelRow, ...] | None = None

    def read(self) -> ModelsRead | None:
        """Return the model files, newest run first; None if unchanged."""
        rows: list[ModelRow] = []
        for run in reversed(list_runs(self.folder)):
            for role, file in (("best", run.best_model), ("final", run.final_model)):
                row = self._row(run, role, file)
                if row is not None:
                    rows.append(row)
        found = tuple(rows)
        if found == self._told:
            return None
        self._told = found
        return ModelsRead(found)

    def _row(self, run: Run, role: str, file: Path) -> ModelRow | None:
        try:
            status = file.stat()
        except OSError:
            return None
        key = (str(file), status.st_mtime_ns, status.st_size)
        if key not in self._known:
            self._known[key] = _read(run, role, file, status.st_size, status.st_mtime)
        return self._known[key]


def inspect(file: Path, *, verify: bool) -> TextFound:
    """Return what a model file says of itself, or whether it still computes what it did."""
    done = run_command(["inspect", str(file), *(["--verify"] if verify else [])])
    text = done.out.strip() or done.words
    title = f"{file.parent.name}/{file.name}" + (" verified" if verify and done.code == 0 else "")
    return TextFound(title, text if done.code == 0 else f"{text}\n{done.words}")


def use_in_hot_folder(folder: Path, file: Path) -> str:
    """Write a run's model into [hotfolder] of project.toml, comments kept.

    Raises: ProjectFaults, InputError.
    """
    tomlkit: Any = import_module("tomlkit")
    project_file = folder / "project.toml"
    document = tomlkit.parse(project_file.read_text("utf-8"))
    if "hotfolder" not in document:
        raise InputError(project_file, "has no [hotfolder]", 'Add it with watch = "incoming"')
    name = file.parent.name if file.stem == "best" else str(file.relative_to(folder))
    document["hotfolder"]["model"] = name
    project_from(project_file, document.unwrap())
    write_whole(project_file, tomlkit.dumps(document).encode())
    return f"the hot folder uses {name} from its next start on"


def hot_folder_model(folder: Path) -> str:
    """Return which model the hot folder is set to."""
    try:
        return load_project(folder).hotfolder.model
    except EmcfError:
        return ""


def _read(run: Run, role: str, file: Path, num_bytes: int, written: float) -> ModelRow:
    common: dict[str, Any] = {"run": run.id, "role": role, "file": file, "bytes": num_bytes}
    try:
        card = read_card(file)
        is_training = isinstance(run.record().request, TrainRequest)
    except EmcfError as error:
        return ModelRow(
            **common, network="", classes="", score=None, step=0, pixel_nm=None, patch_px=0,
            created="", fault=printable(str(error)),
        )  # fmt: skip
    return ModelRow(
        **common,
        network=f"{card.network.head}/{card.network.backbone}",
        classes=", ".join(card.classes),
        score=card.scores.get("mean_iou") if is_training else None,
        step=card.step,
        pixel_nm=card.pixel_nm,
        patch_px=card.patch_px,
        created=time.strftime("%d %b %H:%M", time.localtime(written)),
    )
