"""Images that processes of one machine share: each is read once, and all see the same."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.errors import DataFaults
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.launch.start import Place
from emcfsys_engine.learn.training import dataset as dataset_module
from emcfsys_engine.learn.training import storage
from emcfsys_engine.learn.training.dataset import Dataset, TrainingItem
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.shared_items import read_together
from emcfsys_engine.project import load_project
from emcfsys_engine.settings import cache_home
from tests.waiting import PATIENCE_S

Answer = tuple[list[Dataset], object]  # what a process has, and what it read or met


class _Threads(Ranks):
    """Processes of a machine or two, as threads: what they tell each other is real."""

    said: tuple[bytes, ...]

    def __init__(self, place: Place, meeting: threading.Barrier, told: dict[int, bytes]) -> None:
        super().__init__(place)
        self._meeting, self._told = meeting, told

    def gathered_bytes(self, own: bytes) -> list[bytes]:
        self._told[self.rank] = own
        self._meeting.wait()
        return [self._told[rank] for rank in range(self.world)]

    def wait(self) -> None:
        self._meeting.wait()


def _datasets(folder: Path) -> list[Dataset]:
    project = load_project(folder)
    samples = list_samples(project)
    return [Dataset(samples.of(split), project, Normaliser()) for split in ("train", "val")]


def _together(folder: Path, machines: int = 1, processes: int = 2) -> list[Answer]:
    world = machines * processes
    meeting, told = threading.Barrier(world, timeout=PATIENCE_S), dict[int, bytes]()
    answers: dict[int, Answer] = {}

    def one(rank: int) -> None:
        place = Place(rank=rank, world=world, local_rank=rank % processes, local_world=processes)
        datasets = _datasets(folder)
        try:
            found: object = read_together(datasets, _Threads(place, meeting, told))
        except DataFaults as faults:
            found = faults
        answers[rank] = datasets, found

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[rank] for rank in range(world)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images, as they are read."""
    names: list[str] = []
    real: Callable[..., TrainingItem] = dataset_module.load_item

    def load(sample: object, *arguments: object) -> TrainingItem:
        names.append(getattr(sample, "name", ""))
        return real(sample, *arguments)

    monkeypatch.setattr(dataset_module, "load_item", load)
    return names


def test_each_machine_reads_each_image_once_and_all_processes_have_all(
    project_folder: Path, reads: list[str]
) -> None:
    alone = _datasets(project_folder)
    prints = read_together(alone, Ranks())
    num = len(reads)
    reads.clear()
    for datasets, found in _together(project_folder, machines=2):
        assert found == prints
        for ours, theirs in zip(datasets, alone, strict=True):
            for index in range(len(theirs)):
                one, other = ours[index], theirs[index]
                np.testing.assert_array_equal(one.pixels, other.pixels)
                np.testing.assert_array_equal(one.labels, other.labels)
                assert (one.statistics, one.pixel_nm) == (other.statistics, other.pixel_nm)
                one.labels[...] = 7  # writing into its own changes nobody else's
            assert ours.grey == theirs.grey
    assert len(reads) == 2 * num
    assert not list((cache_home() / "images").iterdir())


def test_a_full_disk_and_a_folder_of_others_let_each_process_read_for_itself(
    project_folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = _datasets(project_folder)
    prints = read_together(alone, Ranks())
    (tmp_path / "a file").touch()
    for fault in (
        lambda: monkeypatch.setattr(storage, "_LEAVE_BYTES", 1 << 60),
        lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file")),
    ):
        fault()
        for datasets, found in _together(project_folder):
            assert found == prints
            for ours, theirs in zip(datasets, alone, strict=True):
                np.testing.assert_array_equal(ours[0].pixels, theirs[0].pixels)


def test_a_fault_that_one_process_meets_ends_all_with_the_same_lines(project_folder: Path) -> None:
    images = sorted((project_folder / "images" / "train").iterdir())
    for image in images[:2]:
        image.write_bytes(image.read_bytes()[:-40])
    (_, one), (_, other) = _together(project_folder)
    assert isinstance(one, DataFaults) and isinstance(other, DataFaults)
    assert str(one) == str(other)
    assert all(image.name in str(one) for image in images[:2])


def test_what_a_killed_process_left_goes_and_what_one_writes_stays(project_folder: Path) -> None:
    folder = cache_home() / "images"
    folder.mkdir(parents=True)
    (folder / "shared-left").write_bytes(b"x")
    (folder / "something").write_bytes(b"y")
    assert all(isinstance(found, dict) for _, found in _together(project_folder))
    assert [file.name for file in folder.iterdir()] == ["something"]
