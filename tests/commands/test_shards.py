"""--shards says how many tasks, or what is wrong with that."""

from pathlib import Path

import pytest

from emcfsys_engine.commands.shards import absolute, refuse_gpus, shards_of
from emcfsys_engine.errors import InputError


def test_a_number_a_limit_or_auto() -> None:
    assert shards_of(None, 2) == {}
    assert shards_of("64", 2) == {"shards": 64, "shards_at_once": None}
    assert shards_of("64%8", 2) == {"shards": 64, "shards_at_once": 8}
    assert shards_of("auto", 2) == {"shards": 16}


@pytest.mark.parametrize("text", ["0", "-1", "many", "8%", "8%0", "8%x", "10001", "1.5", ""])
def test_another_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="Use 64"):
        shards_of(text, 2)


def test_a_gpu_is_refused_where_none_is_used() -> None:
    options = {"gpus": None}
    refuse_gpus(options, "measure")
    assert options == {"gpus": 0.0}
    with pytest.raises(InputError, match="--gpus: measure computes on processors"):
        refuse_gpus({"gpus": 1.0}, "measure")


def test_a_place_is_absolute_from_home_or_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert absolute("~/masks") == absolute("masks") == str(tmp_path / "masks")
    assert absolute("in/*.png") == str(tmp_path / "in/*.png")
