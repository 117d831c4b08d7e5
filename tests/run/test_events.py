"""events.jsonl: whole lines, for ever."""

import gc
import os
import resource
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.run.events import (
    EventReader,
    EventWriter,
    ImageDone,
    RunFinished,
    RunResumed,
    RunStarted,
    StepDone,
    ValidationDone,
    read_events,
    without_void,
)

STARTED = RunStarted(run="run-0001", does="train")


def _step(number: int) -> StepDone:
    return StepDone(step=number, loss=0.5, learning_rate=1e-3, seconds=0.1)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with EventWriter(file) as writer:
        writer.write(STARTED)
        writer.write(_step(1), durable=True)
    events = read_events(file)
    assert [type(event) for event in events] == [RunStarted, StepDone]
    assert events[0] == STARTED


def test_a_reader_gets_each_event_once(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    reader = EventReader(file)
    assert reader.read_new() == []
    with EventWriter(file) as writer:
        writer.write(STARTED)
        assert len(reader.read_new()) == 1
        assert reader.read_new() == []
        writer.write(_step(1))
        assert len(reader.read_new()) == 1


def test_a_torn_last_line_waits_and_is_cut_by_the_next_writer(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with EventWriter(file) as writer:
        writer.write(STARTED)
    whole = file.stat().st_size
    with file.open("ab") as stream:
        stream.write(b'{"kind":"step_done","st')
    reader = EventReader(file)
    assert len(reader.read_new()) == 1
    with EventWriter(file) as writer:
        assert file.stat().st_size == whole
        writer.write(_step(1))
    assert [type(event) for event in reader.read_new()] == [StepDone]
    assert reader.skipped == 0


@pytest.mark.parametrize(
    "line",
    [b'{"kind":"from_the_future","x":1}', b"not json", b'{"kind":"step_done"}', b"[]", b"\xff\xfe"],
)
def test_unknown_lines_are_skipped_and_counted(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(line + b"\n" + msgspec.json.encode(_step(1)) + b"\n")
    reader = EventReader(file)
    assert [type(event) for event in reader.read_new()] == [StepDone]
    assert reader.skipped == 1


def test_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    line = msgspec.json.encode(_step(1)).replace(b'"loss"', b'"new_field":{"a":1},"loss"')
    file.write_bytes(line + b"\n")
    assert len(read_events(file)) == 1


def test_an_iou_that_does_not_exist_is_null(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    event = ValidationDone(
        step=1,
        train_loss=1.0,
        val_loss=1.0,
        mean_iou=None,
        mean_foreground_iou=None,
        accuracy=0.0,
        iou={"a": None},
        f1={"a": None},
        learning_rate=1e-3,
        images_per_s=1.0,
        seconds_left=None,
    )
    with EventWriter(file) as writer:
        writer.write(event)
    assert read_events(file) == [event]


@given(
    before=st.integers(0, 30),
    back_to=st.integers(0, 30),
    after=st.integers(0, 10),
)
def test_a_resume_voids_exactly_the_later_steps(
    tmp_path_factory: pytest.TempPathFactory, before: int, back_to: int, after: int
) -> None:
    file = tmp_path_factory.mktemp("events") / "events.jsonl"
    with EventWriter(file) as writer:
        writer.write(STARTED)
        for step in range(1, before + 1):
            writer.write(_step(step))
        writer.write(RunResumed(step=back_to))
        for step in range(back_to + 1, back_to + after + 1):
            writer.write(_step(step))
    steps = [event.step for event in read_events(file) if isinstance(event, StepDone)]
    assert steps == [*range(1, min(before, back_to) + 1), *range(back_to + 1, back_to + after + 1)]


def test_a_validation_that_is_repeated_after_a_kill_counts_once() -> None:
    first, again = (
        ValidationDone(
            step=4,
            train_loss=loss,
            val_loss=0.5,
            mean_iou=None,
            mean_foreground_iou=None,
            accuracy=0.5,
            iou={},
            f1={},
            learning_rate=1e-3,
            images_per_s=1.0,
            seconds_left=None,
        )
        for loss in (0.1, 0.2)
    )
    resumed = RunResumed(step=4)
    assert without_void([STARTED, first, resumed, again]) == [STARTED, resumed, again]
    assert without_void([STARTED, first, resumed]) == [STARTED, first, resumed]


def test_a_file_that_began_anew_is_read_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    reader = EventReader(file)
    with EventWriter(file) as writer:
        for step in range(5):
            writer.write(_step(step))
    assert len(reader.read_new()) == 5
    file.write_bytes(msgspec.json.encode(_step(1)) + b"\n")
    assert len(reader.read_new()) == 1


@given(cut=st.integers(0, 400))
def test_a_kill_at_any_byte_leaves_a_readable_file(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    file = tmp_path_factory.mktemp("events") / "events.jsonl"
    with EventWriter(file) as writer:
        writer.write(STARTED)
        for step in range(1, 4):
            writer.write(_step(step))
    os.truncate(file, min(cut, file.stat().st_size))
    with EventWriter(file) as writer:
        writer.write(_step(9))
    reader = EventReader(file)
    events = reader.read_new()
    assert reader.skipped == 0
    assert events[-1].step == 9  # type: ignore[union-attr]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_and_leaves_whole_lines(tmp_path: Path) -> None:
    import resource
    import signal

    file = tmp_path / "events.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with EventWriter(file) as writer:
        writer.write(STARTED)
        size = file.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        try:
            with pytest.raises(OSError):
                writer.write(_step(1))
            with pytest.raises(OSError):  # of many at once none stays
                writer.write_all([_step(1), _step(1)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert file.stat().st_size == size
        writer.write_all([_step(2), _step(3)])
    assert [event.step for event in read_events(file) if isinstance(event, StepDone)] == [2, 3]


def test_a_line_without_end_costs_no_memory_and_hides_no_other(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with EventWriter(file) as writer:
        writer.write(RunStarted(run="run-0001", does="train"))
    end = file.stat().st_size
    os.truncate(file, end + (200 << 30))  # zeros, as a crash leaves them
    with file.open("ab") as stream:
        stream.write(b"\n" + msgspec.json.encode(RunFinished(reason="steps")) + b"\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kinds = [type(event) for event in EventReader(file).read_new()]
    assert kinds == [RunStarted, RunFinished]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB


def test_the_garbage_collector_walks_through_no_events() -> None:
    done = ImageDone(image="a.png", mask="a.mask.png", seconds=0.1, shares={"matrix": 1.0})
    assert not any(map(gc.is_tracked, (done, _step(1))))
