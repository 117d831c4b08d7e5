"""The pipeline keeps the order, bounds what is under way, and survives single failures."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.learn.inference.pipeline import Failure, run_pipeline


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
            lambda job, read: stage("compute", read),
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

    for _ in run_pipeline(jobs(), lambda job: job, compute, lambda job, made: made, ()):
        written += 1
    assert written == 50


def test_the_network_stays_in_the_callers_thread() -> None:
    here = threading.get_ident()
    seen = {
        thread
        for _, thread in run_pipeline(
            range(5),
            lambda job: threading.get_ident(),
            lambda job, read: (threading.get_ident(), read),
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
        list(run_pipeline(range(3), lambda job: job, compute, lambda job, made: made, ()))
