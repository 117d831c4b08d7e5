"""The pipeline keeps the order, bounds what is under way, and survives single failures."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.learn.inference.pipeline import Failure, run_pipeline
from tests.waiting import PATIENCE_S


def _each(compute: Callable[[int, Any], Any]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Compute one job after the other."""

    def all_of(arrived: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        for job, read in arrived:
            try:
                yield job, read if isinstance(read, Failure) else compute(job, read)
            except ValueError as error:
                yield job, Failure(job, error)

    return all_of


@given(
    number=st.integers(0, 30),
    bad=st.dictionaries(st.integers(0, 29), st.sampled_from(["read", "compute", "write"])),
)
def test_results_come_in_order_and_failures_stay_single(number: int, bad: dict[int, str]) -> None:
    def stage(name: str, job: int) -> int:
        if bad.get(job) == name:
            raise ValueError(f"{name} {job}")
        return job

    results = list(
        run_pipeline(
            range(number),
            lambda job: stage("read", job),
            _each(lambda job, read: stage("compute", read)),
            lambda job, made: stage("write", made),
            (ValueError,),
        )
    )
    assert [job for job, _ in results] == list(range(number))
    for job, result in results:
        if job in bad:
            assert isinstance(result, Failure)
            assert str(result.error) == f"{bad[job]} {job}"
        else:
            assert result == job


def test_no_more_is_read_than_a_few_files_ahead() -> None:
    asked = 0
    written = 0

    def jobs() -> Iterator[int]:
        nonlocal asked
        for job in range(50):
            asked += 1
            yield job

    def compute(job: int, read: int) -> int:
        assert asked - job <= 5
        return read

    for _ in run_pipeline(jobs(), lambda job: job, _each(compute), lambda job, made: made, ()):
        written += 1
    assert written == 50


def test_the_network_stays_in_the_callers_thread() -> None:
    here = threading.get_ident()
    seen = {
        thread
        for _, thread in run_pipeline(
            range(5),
            lambda job: threading.get_ident(),
            _each(lambda job, read: (threading.get_ident(), read)),
            lambda job, made: made,
            (),
        )
    }
    assert {own for own, _ in seen} == {here}  # type: ignore[misc]
    assert here not in {read for _, read in seen}  # type: ignore[misc]


def test_an_error_of_ours_ends_it() -> None:
    def compute(job: int, read: int) -> int:
        raise KeyError(job)

    with pytest.raises(KeyError):
        list(run_pipeline(range(3), lambda job: job, _each(compute), lambda job, made: made, ()))


def test_several_writers_keep_the_order_and_work_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=PATIENCE_S)

    def write(job: int, made: int) -> int:
        meeting.wait()  # never passed by one alone
        return made

    passed_on = _each(lambda job, read: read)
    found = run_pipeline(range(6), lambda job: job, passed_on, write, (), writers=2)
    assert [made for _, made in found] == list(range(6))
