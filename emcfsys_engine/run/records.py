"""What a run's folder records: what was asked, by whom it was started, of which project it is."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.files import identity_of
from emcfsys_engine.project import Project, Source, Training

FORMAT = 1
EVALUATION = "evaluation.json"  # scores: in the folder of an evaluation's run, and in its --out

# What a worker may know of its submitter's environment: libraries and caches, no secrets.
_ENVIRONMENT = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|PYTHONPATH|VIRTUAL_ENV|"
    r"CONDA_(PREFIX|DEFAULT_ENV)|CC|CXX|TORCHINDUCTOR_CACHE_DIR|CUDA_\w+|NVIDIA_\w+|"
    r"OMP_NUM_THREADS|MKL_NUM_THREADS|(TORCH_)?NCCL_\w+|GLOO_\w+|PYTORCH_\w*ALLOC_CONF|"
    r"TRITON_CACHE_DIR|HF_(HOME|HUB_CACHE|HUB_OFFLINE|ENDPOINT|ASSETS_CACHE|XET_CACHE)|"
    r"TORCH_HOME|XDG_\w+|EMCFSYS_\w+|https?_proxy|no_proxy"
)
_WORD_OF_ACCESS = re.compile(r"(?<=://)[^/@\s]*@")  # user and password in an address


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    """Train as the project says."""


class PredictRequest(msgspec.Struct, frozen=True, kw_only=True, tag="predict"):
    """Predict the inputs with a model file, or with several as an ensemble."""

    writes_nothing_each: ClassVar = False
    model: str  # absolute path
    also: tuple[str, ...] = ()  # more model files: an ensemble
    inputs: tuple[str, ...]  # absolute files, folders or globs
    out: str  # absolute folder
    overlay: bool = False
    probability: bool = False
    uncertainty: bool = False
    rank_uncertain: bool = False
    vectors: tuple[Literal["labelme", "coco", "geojson", "imagej"], ...] = ()
    mask_format: Literal["png", "tif", "tiff", "ome-tiff", "ome-zarr"] = "png"
    force: bool = False
    tta: bool = False
    rescale: bool = False
    overlap: float = 0.25
    tile_px: int | None = None
    batch: int | None = None
    threads: int | None = None
    gpus: int | None = None  # one process each; 0: the processor; None: a GPU where there is one
    processes: int = 1  # on a processor, as several GPUs
    region: str = ""  # as `regions.written` returns it: only this of each image; empty: all
    region_px: int = 8192  # side of the regions in which tasks share a large image out
    shards: int = 0  # tasks that each take a share of the images; 0: one list, handed out
    shards_at_once: int | None = None  # None: locally one a GPU or processor, on Slurm all

    @property
    def models(self) -> tuple[str, ...]:
        """All model files."""
        return (self.model, *self.also)

    @property
    def num_processes(self) -> int:
        """How many processes share the images out."""
        return self.gpus or self.processes


class WatchRequest(msgspec.Struct, frozen=True, kw_only=True, tag="watch"):
    """Watch the project's hot folder and predict what arrives."""

    model: str  # absolute path, resolved when the run was made
    watch: str
    output: str
    once: bool = False
    recipe: str = ""  # absolute path of the recipe file that is followed exactly; empty: none


class EvaluateRequest(msgspec.Struct, frozen=True, kw_only=True, tag="evaluate"):
    """Compare a model file, or several as an ensemble, with the labels of images."""

    writes_nothing_each: ClassVar = True
    model: str  # absolute path
    also: tuple[str, ...] = ()  # more model files: an ensemble
    project: Project | None = None  # as it was when this was asked; None: the two folders below
    split: Literal["train", "val", "test", "all"] = "val"
    as_dealt_now: bool = False
    images: str = ""  # absolute folder
    masks: str = ""  # absolute folder of masks or annotations
    out: str  # absolute folder; "": nowhere
    tta: bool = False
    overlap: float = 0.25
    boundary_px: float = 2.0
    middle_lines: bool = False
    threads: int | None = None
    gpus: int | None = None  # one task each; 0: the processor; None: a GPU where there is one
    shards: int = 0  # tasks that each take a share of the images; 0: in one process
    shards_at_once: int | None = None  # None: locally one a GPU or processor, on Slurm all

    @property
    def models(self) -> tuple[str, ...]:
        """All model files."""
        return (self.model, *self.also)


class MeasureRequest(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Measure masks in shards: each task a share of them, tables at the end."""

    writes_nothing_each: ClassVar = True
    models: ClassVar[tuple[str, ...]] = ()  # none is read

    masks: str  # absolute file, folder or glob
    images: str = ""  # the same; empty: none
    out: str  # absolute folder
    settings: dict[str, Any] = {}  # as `MeasureSettings` of tools.measure has them
    shards: int = 1
    shards_at_once: int | None = None  # None: locally one a processor, on Slurm all


class ConvertRequest(msgspec.Struct, frozen=True, kw_only=True, tag="convert"):
    """Convert labels or micrographs in shards: each task a share of the files."""

    writes_nothing_each: ClassVar = True  # COCO has one file for all
    models: ClassVar[tuple[str, ...]] = ()  # none is read

    source: str  # absolute file, folder or glob
    images: str = ""  # the same; empty: none
    out: str  # absolute folder
    to: Literal["png", "masks", "labelme", "coco", "geojson", "imagej"]
    classes: dict[str, int] | None = None  # None: those that are found
    labels: dict[str, str] = {}
    own: Source | None = None  # the table of a project that the labels are of
    instances: tuple[str, ...] = ()  # classes whose objects masks keep, too
    tolerance_px: float | None = None
    smallest_px: int = 0
    overwrite: bool = False
    shards: int = 1
    shards_at_once: int | None = None  # None: locally one a processor, on Slurm all


Request = (
    TrainRequest | PredictRequest | WatchRequest | EvaluateRequest | MeasureRequest | ConvertRequest
)


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """run.json: what was true when the run was asked for; what runs is what stands here."""

    format: int = FORMAT
    id: str
    request: Request
    project: Project | None = None
    seed: int = 0
    created: float
    python: str  # the submitter's interpreter
    folder: str  # where the submitter stood
    environment: dict[str, str] = {}
    versions: dict[str, str] = {}
    resume: Literal["auto", "never"] = "never"
    group: str = ""  # runs that were asked for together
    home: str = ""  # the project's folder: several may have one folder of runs, by links
    host: str = ""  # on which it was asked for
    numbers: str = ""  # of its project.toml then, see `project.numbers_now`
    fold: int = 0  # of a cross-validation, from 1; 0: none
    budget_before: Training | None = None  # of an extension that no worker has begun yet
    seal: str = ""  # of whoever wrote python, folder and environment: see `seal_of`


class StartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """start.json: the newest start of a run; written by whoever starts it."""

    token: str = ""
    host: str = ""
    events_bytes: int | None = None  # how long events.jsonl was then; None in older files


class AskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """ask.json: what a person asked of a running worker; without one a TERM is an interruption."""

    ask: Literal["cancel", "stop", "pause"]
    time: float


def deal_file(runs_folder: Path, group: str) -> Path:
    """Return where a k-fold group keeps which image validates in which fold."""
    return runs_folder / f"{group}.deal.json"


def new_group(first: Path) -> str:
    """Return a name for the group that a run begins.

    A number is given again once its run is deleted; the deal of its group stays, and is no other's.
    """
    name = first.name.replace("run-", "kfold-")
    number, free = 1, name
    while os.path.lexists(deal_file(first.parent, free)):
        number += 1
        free = f"{name}-{number}"
    return free


def why_unread(error: msgspec.MsgspecError) -> tuple[str, str]:
    """Return what is wrong with a run.json that cannot be read, and what helps."""
    if str(error).endswith("`$.request.type`"):
        return "asks for what this version does not know", "Update emcfsys-tui"
    return f"is damaged: {error}", "Restore it from a copy"


def seal_of(record: RunRecord, key: bytes) -> str:
    """Return what only the owner of a key can write beside a record's interpreter and variables.

    Who unpacks or copies a project owns its files, and still did not write them.
    """
    if not key:
        return ""
    chosen = any_names.encode([record.python, record.folder, sorted(record.environment.items())])
    return hashlib.blake2b(chosen, key=key, digest_size=16).hexdigest()


def validated_on(plan_file: Path) -> dict[str, str]:
    """Return the images that a run's scores are of, with what changes as their labels do.

    That is "" where the plan does not say, as older ones; without a plan there are none.
    """
    try:
        plan = any_names.read(plan_file, dict[str, Any]) or {}
        known = plan.get("fingerprints", {})
        return {str(name): str(known.get(name, "")) for name in plan.get("val_images", ())}
    except (OSError, AttributeError, TypeError):
        return {}


def with_paths(
    record: RunRecord,
    of_data: Callable[[str], str],
    file_name: str,
    of_request: Callable[[str], str],
) -> RunRecord:
    """Return the record with other paths: of its project's file, its data and its watch."""
    project, request = record.project, record.request
    assert project is not None
    sources = tuple(
        msgspec.structs.replace(
            source,
            **{
                key: of_data(text)
                for key in ("images", "masks", "annotations")
                if (text := getattr(source, key)) is not None
            },
        )
        for source in project.data
    )
    project = msgspec.structs.replace(project, file_name=file_name, data=sources)
    if isinstance(request, WatchRequest):
        request = msgspec.structs.replace(
            request,
            model=of_request(request.model),
            watch=of_request(request.watch),
            output=of_request(request.output),
            recipe=of_request(request.recipe) if request.recipe else "",
        )
    return msgspec.structs.replace(record, project=project, request=request)


def allowed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: without_access(value)
        for name, value in environment.items()
        if _ENVIRONMENT.fullmatch(name) and "\0" not in value
    }


def without_access(value: str) -> str:
    """Return a value without user and password of an address: run.json holds no secret."""
    return _WORD_OF_ACCESS.sub("", value)


def versions_here() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    metadata = import_module("importlib.metadata")  # a tenth of the interface's start
    for name in ("emcfsys-tui", "torch", "timm", "segmentation-models-pytorch", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


_HERE = "./"  # of a path in the project's folder, in run.json


def portable(record: RunRecord, folder: Path) -> RunRecord:
    """Return a record as it is written: what is inside the project, by its path in it.

    `folder`: of the run, absolute.
    """
    project = record.project
    if project is None or not _are_one(folder.parent, project.runs_folder):
        return record
    home = project.folder

    def inside(text: str) -> str:
        path = Path(text)
        return str(path.relative_to(home)) if path.is_relative_to(home) else text

    def marked(text: str) -> str:
        path = Path(text)
        return f"{_HERE}{path.relative_to(home)}" if path.is_relative_to(home) else text

    record = msgspec.structs.replace(record, home=str(home))
    return with_paths(record, inside, inside(project.file_name), marked)


def found_here(record: RunRecord, folder: Path) -> RunRecord:
    """Return a record with absolute paths, where the project is now: it may be a copy.

    `folder`: of the run, absolute.
    """
    project = record.project
    if project is None:
        return record
    is_old = project.file.is_absolute()  # as older versions wrote it
    before = project.folder if is_old else Path(record.home or folder.parent.parent)
    home = _home(folder, before)
    file = home / project.file.name
    if is_old and (folder.parent.name != "runs" or not file.is_file()):
        return record

    def here(text: str) -> str:
        path = Path(text)
        if is_old and path.is_relative_to(before):
            return str(home / path.relative_to(before))
        return str(home / path) if text.startswith(_HERE) else text

    def of_data(text: str) -> str:  # relative ones are the person's own words
        return here(text) if Path(text).is_absolute() else text

    return with_paths(record, of_data, str(file), here)


def is_of(record: RunRecord, project_folder: Path) -> bool:
    """Tell whether a run, as its record was found, is of a project rather than of another's.

    Projects whose folders of runs are links to one see each other's.
    """
    project = record.project
    return project is None or _are_one(project.folder, project_folder)


def _home(folder: Path, before: Path) -> Path:
    """Return the folder of a run's project: where it was, while its runs are still these ones."""
    here = folder.parent.parent
    return before if before != here and _are_one(before / "runs", folder.parent) else here


def _are_one(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one folder, that is there."""
    return one == other or identity_of(one) == identity_of(other) is not None
