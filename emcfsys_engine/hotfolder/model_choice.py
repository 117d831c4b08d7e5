"""Which model a hot folder uses: the best of the newest finished run, a run's, or a file."""

from pathlib import Path

from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.model_card import ModelCard, read_card
from emcfsys_engine.project import Project
from emcfsys_engine.run.folder import Run, TrainRequest, list_runs


def resolve_model(project: Project, wanted: str) -> Path:
    """Return the model file that "best", a run's name or a path stands for.

    Raises: InputError if there is none, or if its classes are not the project's.
    """
    if wanted == "best":
        file = best_model(project)
        if file is None:
            remedy = "Train one: emcfsys-engine train " + str(project.file)
            raise InputError(project.file, "has no finished run with these classes", remedy)
        return file
    run = Run(project.runs_folder / wanted)
    file = run.best_model if run.record_file.exists() else (project.folder / wanted)
    card = read_card(file)
    if not fits(project, card):
        what = f"its classes are {', '.join(card.classes)}, not the project's"
        raise InputError(file, what, "Name a model of this project")
    return file.absolute()


def best_model(project: Project) -> Path | None:
    """Return the best model of the newest finished training with the project's classes."""
    for run in reversed(list_runs(project.folder)):
        try:
            if not isinstance(run.record().request, TrainRequest) or run.state() != "done":
                continue
            if fits(project, read_card(run.best_model)):
                return run.best_model
        except EmcfError:
            continue  # a run without a usable model is passed over
    return None


def fits(project: Project, card: ModelCard) -> bool:
    """Tell whether a model's classes and values are the project's."""
    return card.classes == project.class_names and card.class_values == project.class_values
