"""Another model under a name is told from the one that a run began with."""

import json
import shutil
from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.run.same_models import SameModels, digests_of_models


def written(file: Path, weights: str, values: tuple[int, int] = (0, 7)) -> Path:
    """Write the header of a model file, without weights."""
    network = {"head": "unet", "backbone": "resnet18"}
    card = {
        "format": 1,
        "network": {**network, "num_classes": 2, "in_channels": 1},
        "classes": ["resin", "grain"],
        "class_values": values,
        "colours": [[0, 0, 0], [9, 9, 9]],
        "patch_px": 64,
        "weights_digest": weights,
    }
    header = json.dumps({"__metadata__": {"emcfsys": json.dumps(card)}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    return file


def test_the_file_that_holds_another_model_is_named(tmp_path: Path) -> None:
    files = written(tmp_path / "a.safetensors", "a"), written(tmp_path / "b.safetensors", "b")
    known = SameModels(files=files, digests=digests_of_models(files))
    shutil.copy(files[0], tmp_path / "copy")
    shutil.move(tmp_path / "copy", files[0])
    assert not known.are_others  # a copy is the same
    known.refuse_others("it began", "Begin again")
    written(files[1], "c")
    assert known.are_others
    with pytest.raises(InputError, match=r"b\.safetensors: is another model than when it began"):
        known.refuse_others("it began", "Begin again")


def test_other_values_for_the_classes_are_another_model(tmp_path: Path) -> None:
    file = written(tmp_path / "a.safetensors", "a")
    known = SameModels(files=(file,), digests=digests_of_models([file]))
    written(file, "a", (7, 0))
    assert known.are_others


def test_a_list_of_an_older_version_that_noted_nothing_refuses_nothing(tmp_path: Path) -> None:
    known = SameModels(files=(tmp_path / "gone.safetensors",), digests=())
    known.refuse_others("it began", "Begin again")
    assert not known.are_others
