"""Compiled code lies in the user's own folder, which nobody else can write."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

_CODE = """
from emcfsys_engine.learn.inference.compiled import keep_compiled_code_private
keep_compiled_code_private()
import timm
from torch._inductor.runtime.cache_dir_utils import cache_dir
print(cache_dir())
"""


def _folder_of(**environment: str) -> Path:
    known = {name: text for name, text in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        env=known | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


def test_the_users_own_choice_is_kept(tmp_path: Path) -> None:
    assert _folder_of(TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "mine")) == tmp_path / "mine"


def test_a_cache_folder_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert tmp_path not in _folder_of(XDG_CACHE_HOME=str(tmp_path / "file")).parents


def test_a_worker_keeps_compiled_code_where_only_its_user_writes(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 40), np.uint8))
    words = ["predict", str(model_file), str(tmp_path / "a.tif"), "--out", str(tmp_path / "out")]
    subprocess.run(
        [sys.executable, "-m", "emcfsys_engine", *words], check=True, capture_output=True
    )
    folder = tmp_path / "cache" / "emcfsys" / "compiled"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (tmp_path / "out" / "a.png").exists()
