"""More steps, minutes or patience for a training that is there: all that may change in a resume."""

from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine.errors import InputError, ProjectError, ProjectFaults
from emcfsys_engine.project import Training
from emcfsys_engine.project_faults import check_table
from emcfsys_engine.run.folder import Run, RunRecord, TrainRequest

_EXTENDABLE = ("steps", "minutes", "patience")


def refuse_unless_extendable(run: Run) -> RunRecord:
    """Return run.json of a training that can go on.

    Raises: InputError for what is no training, or runs; RunFolderError.
    """
    record = run.record()
    if not isinstance(record.request, TrainRequest) or record.project is None:
        raise InputError(run.folder, "is no training", "Name the folder of a training run")
    if run.is_alive():
        raise InputError(run.folder, "is running", "Stop it first")
    return record


def extend(run: Run, overrides: tuple[str, ...]) -> RunRecord:
    """Write another budget into run.json and return what stood there before.

    Raises: InputError, ProjectFaults, RunFolderError; then nothing is changed.
    """
    before = refuse_unless_extendable(run)
    assert before.project is not None
    training = extended(before.project.training, overrides)
    project = msgspec.structs.replace(before.project, training=training)
    run.write_record(msgspec.structs.replace(before, project=project))
    return before


def extended(training: Training, overrides: tuple[str, ...]) -> Training:
    """Return the run's own settings with another budget or patience: nothing else may change."""
    given = msgspec.to_builtins(training)
    for override in overrides:
        key, _, text = override.partition("=")
        name = key.strip().removeprefix("training.")
        if name not in _EXTENDABLE:
            remedy = f"Use {', '.join(f'training.{one}' for one in _EXTENDABLE)}, or a new run"
            raise InputError("--set", f"{override!r} cannot change a resumed run", remedy)
        given |= {"steps": None, "minutes": None} if name != "patience" else {}
        given[name] = float(text) if name == "minutes" and _is_number(text) else text
    faults: list[ProjectError] = []
    made = check_table(Path("--set"), "training", {**given, **_whole(given)}, Training, faults)
    if faults or made is None:
        raise ProjectFaults(faults)
    return made


def _whole(given: dict[str, Any]) -> dict[str, Any]:
    """Return steps and patience as numbers where their text is one."""
    return {
        name: int(given[name])
        for name in ("steps", "patience")
        if isinstance(given[name], str) and given[name].strip().isdecimal()
    }


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).isdecimal()
