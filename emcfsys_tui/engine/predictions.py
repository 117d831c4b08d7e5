"""The engine as the interface sees it: what a model says of images, and which to label next."""

from contextlib import suppress
from importlib import import_module
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError
from emcfsys_engine.project import load_project
from emcfsys_tui.engine.runs import run_command


def submit_prediction(folder: Path, source: int) -> str:
    """Queue a prediction of a source's images with the project's best model.

    Raises: InputError without a model; QueueError, DaemonError.
    """
    project = load_project(folder)
    model = import_module("emcfsys_engine.hotfolder.status").resolve_model(project, "best")
    out = prediction_folder(folder, source)
    images = str(folder / project.data[source].images)
    words = ["submit", "predict", str(model), images, "--out", str(out), "--rank-uncertain"]
    done = run_command(words)
    if done.code != 0:
        raise InputError("predict", done.words or "failed", "See emcfsys-engine jobs")
    told = f"predictions go to {out.relative_to(folder)}, what is there stays; o shows them"
    return f"job {done.out.strip()}: {told}{done.notes}"


def most_uncertain(folder: Path) -> list[str]:
    """Return the paths of images, those first of which a model was least sure.

    What predictions of the project's own images and suggestions ranked; of several the newest.
    """
    scores: dict[str, float] = {}
    found = filter(Path.is_file, rankings(folder))
    for file in sorted(found, key=lambda file: file.stat().st_mtime):
        try:
            ranking = any_names.read(file, _Ranking)
        except OSError:
            continue
        scores |= {one.image: one.score for one in ranking.images} if ranking else {}
    return sorted(scores, key=lambda image: -scores[image])


def rankings(folder: Path) -> list[Path]:
    """Return the files that are written last when a model looks at a project's own images."""
    return [
        _suggestions(folder) / "ranking.json",
        *sorted(folder.glob("predicted/*/ranking.json")),
    ]


class _Suggested(msgspec.Struct, frozen=True):
    suggestions: list[object]
    waiting: int


class _Ranked(msgspec.Struct, frozen=True):
    image: str
    score: float


class _Ranking(msgspec.Struct, frozen=True):
    images: tuple[_Ranked, ...] = ()


def suggest(folder: Path, answer: str) -> str:
    """Let the project's best model fill in label files for the images most worth labelling.

    Raises: InputError for what is no number, or with the engine's own word.
    """
    if not answer.isdecimal() or int(answer) < 1:
        raise InputError(answer, "is no number of images", "Write one like 10")
    done = run_command(["suggest", str(folder), "--number", answer, "--json"])
    if done.code != 0:
        raise InputError("suggest", done.words.removeprefix("emcfsys-engine: ") or "failed")
    found = any_names.decode(done.out, _Suggested)
    number, waiting = len(found.suggestions), found.waiting
    return (
        f"{number} suggestions; {waiting} wait to be corrected and saved in Labelme: U shows them"
        f"{done.notes}"
    )


def prediction_folder(folder: Path, source: int) -> Path:
    """Return where predictions of a source's own images go."""
    return folder / "predicted" / str(source)


def newest_mask(folder: Path, source: int, name: str) -> str:
    """Return the file of what a model said last of an image; empty where none did."""
    found: list[tuple[float, str]] = []
    for place in (prediction_folder(folder, source), _suggestions(folder)):
        with suppress(OSError):  # there is none, or it is written anew just now
            found.append(((file := place / f"{name}.png").stat().st_mtime, str(file)))
    return max(found, default=(0.0, ""))[1]


def _suggestions(folder: Path) -> Path:
    return folder / ".emcfsys" / "suggestions"
