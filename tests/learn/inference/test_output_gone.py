"""The disk that masks are written to goes away and comes back."""

from pathlib import Path
from typing import Any

import pytest

from emcfsys_engine.images import outages
from emcfsys_engine.learn.inference import outputs
from emcfsys_engine.learn.inference import predictor as predict
from emcfsys_engine.learn.inference.files import Counted
from emcfsys_engine.learn.inference.predictor import Predictor
from tests.learn.inference.made import Predict, draw, names_in, warnings_of


def test_ending_is_heeded_within_one_batch_of_tiles(
    run: Predict, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "in" / "a.png", 1, (600, 600))
    batches: list[int] = []
    forward = predict.SegmentationNetwork.forward

    def counted(self: Any, tiles: Any) -> Any:
        batches.append(len(tiles))
        return forward(self, tiles)

    monkeypatch.setattr(predict.SegmentationNetwork, "forward", counted)
    monkeypatch.setattr(predictor.tiles, "batch", 1)
    count, said = run(asked=lambda: "cancel" if len(batches) >= 3 else None)
    assert count.done == 0
    assert not said
    assert len(batches) == 3
    assert names_in(tmp_path / "out") == []


def test_an_output_that_vanishes_and_returns_is_waited_for_and_no_image_is_lost(
    run: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(6):
        draw(tmp_path / "in" / f"{index}.png", index)
    out, away = tmp_path / "out", tmp_path / "away"
    commit, looks = outputs.commit, [0]

    def vanishes(staged: Any, *arguments: Any) -> None:
        commit(staged, *arguments)
        if not looks[0] and len(list(out.glob("*.png"))) == 2:
            out.rename(away)
            out.mkdir()  # as an empty mount point is there

    def returns(*_: object) -> None:
        looks[0] += 1
        if looks[0] == 3:
            assert list(out.iterdir()) == []
            out.rmdir()
            away.rename(out)

    monkeypatch.setattr(outputs, "commit", vanishes)
    monkeypatch.setattr(outages.time, "sleep", returns)
    count, said = run()
    assert count == Counted(done=6, skipped=0, failed=0)
    assert "another folder lies in its place" in warnings_of(said)
    assert names_in(out) == [f"{index}.png" for index in range(6)]
