"""What a start may cost: heavy libraries stay out until they are needed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import emcfsys_engine

HEAVY = ("torch", "timm", "numpy", "segmentation_models_pytorch", "textual", "skimage", "sqlite3")


def loaded_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import emcfsys_engine",
        "import emcfsys_engine.cli",
        "from emcfsys_engine import Project, load_project, Run, EventReader",
        "import emcfsys_engine.launch.start, emcfsys_engine.model_card",
    ],
)
def test_the_front_doors_load_nothing_heavy(code: str) -> None:
    assert not loaded_after(code) & set(HEAVY)


@pytest.mark.parametrize("command", ["train", "submit", "predict", "hotfolder", "jobs", "runs"])
def test_who_starts_or_lists_runs_reads_no_image_and_loads_no_arrays(command: str) -> None:
    loaded = loaded_after(f"import emcfsys_engine.commands.{command}")
    assert not loaded & {*HEAVY, "scipy", "tifffile", "PIL", "zarr"} - {"sqlite3"}


def test_what_only_some_images_and_labels_need_is_not_loaded_before_them() -> None:
    data = "import emcfsys_engine.dataset.sources; assert 'scipy.ndimage' not in sys.modules"
    rooms = "tools.check, tools.new_project, tools.inspect_file, tools.measure.fields, tools.adapt"
    every = f"import emcfsys_engine.{rooms.replace(', ', ', emcfsys_engine.')}"
    assert "zarr" not in loaded_after(f"{data}; {every}")


def test_no_worker_loads_at_its_start_what_only_some_runs_need() -> None:
    at_once = re.compile(
        r"^(from (scipy|skimage|zarr)\b|import (scipy\.|skimage|zarr))", re.MULTILINE
    )
    files = Path(emcfsys_engine.__file__).parent.glob("learn/**/*.py")
    assert [file.name for file in files if at_once.search(file.read_text())] == []


def test_the_keeper_needs_only_the_standard_library() -> None:
    by_itself = loaded_after("pass")  # what this Python's own site loads
    loaded = loaded_after("import emcfsys_engine.launch.keeper") - by_itself
    assert loaded <= {*sys.stdlib_module_names, "emcfsys_engine"}


def test_help_imports_no_command() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "emcfsys_engine", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "emcfsys_engine.commands" not in done.stderr
    assert "emcfsys-engine train projects/demo/project.toml" in done.stdout
