"""What a model says of a project's own images, and which to label next."""

import json
import os
from pathlib import Path

import pytest

from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_tui.engine.predictions import (
    most_uncertain,
    newest_mask,
    submit_prediction,
    suggest,
)


def ranking(file: Path, scores: dict[str, float], when: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"image": image, "score": score} for image, score in scores.items()]
    file.write_text(json.dumps({"images": images}))
    os.utime(file, (when, when))


def test_the_most_doubtful_stand_first_by_the_newest_ranking(tmp_path: Path) -> None:
    ranking(tmp_path / "predicted" / "0" / "ranking.json", {"a": 0.9, "b": 0.1}, when=1)
    ranking(tmp_path / ".emcfsys" / "suggestions" / "ranking.json", {"a": 0.2, "c": 0.5}, when=2)
    assert most_uncertain(tmp_path) == ["c", "a", "b"]
    (tmp_path / "predicted" / "0" / "ranking.json").write_text("{")
    assert most_uncertain(tmp_path) == ["c", "a"]


def test_of_what_models_said_of_an_image_the_newest_counts(tmp_path: Path) -> None:
    assert newest_mask(tmp_path, 1, "sub/a") == ""
    predicted = tmp_path / "predicted/1/sub/a.png"
    suggested = tmp_path / ".emcfsys/suggestions/sub/a.png"
    for when, file in enumerate((predicted, suggested)):
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (when, when))
        assert newest_mask(tmp_path, 1, "sub/a") == str(file)
    assert newest_mask(tmp_path, 0, "sub/a") == str(suggested)


@pytest.mark.parametrize("answer", ["", "none", "0", "-1", "1.5"])
def test_a_number_that_is_none_starts_nothing(answer: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Write one like 10"):
        suggest(tmp_path, answer)


def test_without_a_model_nothing_is_queued(demo: Path) -> None:
    with pytest.raises(EmcfError):
        submit_prediction(demo, 0)
