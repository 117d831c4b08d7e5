"""Names of any bytes go through events and run records and come back."""

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine import any_names
from emcfsys_engine.run.events import EventWriter, ImageFailed, RunFinished, read_events
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest

raw_names = st.binary(min_size=1, max_size=20).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)


@given(name=raw_names)
def test_every_name_comes_back(name: str) -> None:
    event = ImageFailed(image=name, reason=name)
    assert any_names.decode(any_names.encode(event), ImageFailed) == event


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"{", b'{"image": "\\udcff"', b"[" * 100_000, b'"\\udcff', b'{"a": "\\ud800"}', b""],
)
def test_what_is_no_event_is_one_kind_of_error(content: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        any_names.decode(content, ImageFailed)


@given(
    names=st.lists(raw_names, max_size=40),
    torn=st.lists(
        st.sampled_from([b"{", b"\xff", b"[]", b'{"image": 1}', b"\0" * 5000]), max_size=3
    ),
    seed=st.randoms(use_true_random=False),
)
def test_many_lines_are_read_as_one_by_one_whatever_is_damaged_among_them(
    names: list[str], torn: list[bytes], seed: random.Random
) -> None:
    events = [ImageFailed(image=name, reason="x" * 100) for name in names]
    lines = [any_names.encode(event) for event in events]
    for one in torn:
        lines.insert(seed.randint(0, len(lines)), one)
    damaged: list[bytes] = []
    content = b"".join(line + b"\n" for line in lines)
    assert any_names.decode_lines(content, ImageFailed, damaged.append) == events
    assert sorted(damaged) == sorted(torn)


def test_events_and_requests_hold_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = "caf\udce9.tif"
    with EventWriter(tmp_path / "events.jsonl") as events:
        events.write(ImageFailed(image=name, reason="x"))
        events.write(RunFinished(reason="done"))
    first, second = read_events(tmp_path / "events.jsonl")
    assert isinstance(first, ImageFailed)
    assert first.image == name
    assert isinstance(second, RunFinished)
    made = new_run(tmp_path, PredictRequest(model="m", inputs=(name,), out="/out"))
    request = Run(made.folder).record().request
    assert isinstance(request, PredictRequest)
    assert request.inputs == (name,)
