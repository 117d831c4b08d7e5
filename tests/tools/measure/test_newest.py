"""What is told of a folder of tables is told of one measurement, the newest, by all who read it."""

import fcntl
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.measure.newest import newest_of, newest_tables
from emcfsys_engine.tools.measure.summary import summarise
from emcfsys_engine.tools.report.sizes import size_charts
from tests.tools.drawn_masks import disc, measured, save_mask
from tests.waiting import PATIENCE_S


def measure_discs(folder: Path, radius: float, table: str) -> Path:
    """Measure one disc of this radius, in the same folders whatever was measured before."""
    ids = disc((80, 80), (40, 40), radius).astype(np.uint8)
    save_mask(folder / "masks/a.png", ids, (2.0, 2.0))
    return Path(measured(folder, table=table).objects_file).parent


def told_of(out: Path) -> list[float]:
    """Return the diameter by the summary, by the charts of the report, and by the area."""
    (one,) = (one for one in summarise(out).classes if one.num_objects)
    by_area = np.sqrt(4 * (one.area_fraction or 0) * 80 * 80 * 4 / np.pi)
    drawn = size_charts(out)[0].curves[0].points[-1][0]
    return [float(one.median_diameter or 0), drawn, float(by_area)]


@pytest.mark.parametrize("first", ["csv", "parquet", "parts"])
@pytest.mark.parametrize("second", ["csv", "parquet", "parts"])
def test_of_two_measurements_the_later_one_is_told_by_all(
    tmp_path: Path, first: str, second: str
) -> None:
    measure_discs(tmp_path, 8, first)
    out = measure_discs(tmp_path, 20, second)
    for file in out.rglob("*.*"):
        os.utime(file, (1, 1))  # whatever the clock said
    assert told_of(out) == pytest.approx([80, 80, 80], rel=0.01)


@pytest.mark.parametrize("kept", ["objects", "images"])
def test_a_table_that_a_person_changed_is_not_told_with_the_measurement_after_it(
    tmp_path: Path, kept: str
) -> None:
    out = measure_discs(tmp_path, 8, "csv")
    file = out / f"{kept}.csv"
    file.write_text(file.read_text().replace("large", "LARGE"))
    measure_discs(tmp_path, 20, "csv")
    assert (out / f"{kept}.v2.csv").is_file()
    file.touch()  # looked at once more, and saved
    assert told_of(out) == pytest.approx([80, 80, 80], rel=0.01)
    assert newest_of(out, kept, ".csv") == out / f"{kept}.v2.csv"


def test_a_measurement_of_which_half_was_written_is_not_mixed_with_the_one_before(
    tmp_path: Path,
) -> None:
    out = measure_discs(tmp_path, 8, "csv")
    before = (out / "images.csv").read_bytes()
    book = out / ".emcfsys/outputs.jsonl"
    measure_discs(tmp_path, 20, "csv")
    (out / "images.csv").write_bytes(before)  # as after a kill between the two
    lines = book.read_text().splitlines(keepends=True)
    last = next(n for n in reversed(range(len(lines))) if "images.csv" in lines[n])
    book.write_text("".join(lines[:last]))
    with pytest.raises(InputError, match="earlier measurement than objects.csv"):
        newest_tables(out)


@pytest.mark.parametrize("second", ["csv", "parquet"])
def test_a_copy_of_two_measurements_without_our_notes_is_asked_for_the_newer_one(
    tmp_path: Path, second: str
) -> None:
    out = measure_discs(tmp_path, 8, "csv")
    if second == "csv":
        (out / "objects.csv").write_text((out / "objects.csv").read_text() + "\n")
    measure_discs(tmp_path, 20, second)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in out.glob("[!.]*"):  # as cp -r out/* does, which may come to them in any order
        copy.joinpath(file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match="no note of the newer one.*copy the folder with its"):
        summarise(copy)
    for older in ["objects.csv"] if second == "csv" else ["objects.csv", "images.csv"]:
        (copy / older).unlink()
    assert told_of(copy) == pytest.approx([80, 80, 80], rel=0.01)


def test_a_folder_that_is_not_there_has_no_tables(tmp_path: Path) -> None:
    assert newest_of(tmp_path / "none", "objects", ".csv") is None
    with pytest.raises(InputError, match="no table of objects"):
        newest_tables(tmp_path / "none")


def test_two_measurements_into_one_folder_write_one_after_the_other(tmp_path: Path) -> None:
    out = measure_discs(tmp_path, 8, "csv")
    held = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_EX)
    before = (out / "objects.csv").read_bytes()
    other = threading.Thread(target=measure_discs, args=(tmp_path, 20, "csv"))
    other.start()
    inode = out.stat().st_ino
    until = time.monotonic() + PATIENCE_S
    while not any(f":{inode} " in line for line in waiting_locks()):
        assert time.monotonic() < until
    assert (out / "objects.csv").read_bytes() == before
    os.close(held)
    other.join()
    assert told_of(out) == pytest.approx([80, 80, 80], rel=0.01)


def waiting_locks() -> list[str]:
    """Return the kernel's lines of locks that are waited for."""
    return [line for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
