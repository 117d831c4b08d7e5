"""Another model under a name is told from the one that a run began with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.run.models_used import InUse, SameModels, digests_of_models, is_in_use


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


_USE = (
    "from emcfsys_engine.run.models_used import *; x = InUse([Path(r'{file}')]); print(1); input()"
)


def test_a_file_is_in_use_until_the_last_process_ends_that_uses_it(tmp_path: Path) -> None:
    file = tmp_path / "best.safetensors"
    file.write_bytes(b"a model")
    mine = InUse([file])
    command = [sys.executable, "-c", "from pathlib import Path; " + _USE.format(file=file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "1\n"
        mine.end()
        assert is_in_use(file)
        child.kill()
    assert not is_in_use(file)


def test_what_is_not_there_or_only_named_by_a_link_is_not_in_use(tmp_path: Path) -> None:
    file, link = tmp_path / "best.safetensors", tmp_path / "link"
    held = InUse([file, tmp_path])
    assert not is_in_use(file)
    held.end()
    file.write_bytes(b"a model")
    link.symlink_to(file)
    held = InUse([link])
    assert is_in_use(file)
    assert not is_in_use(link)
    del held
    assert not is_in_use(file)
