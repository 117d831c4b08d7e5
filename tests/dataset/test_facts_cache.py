"""Facts of files cost a second look nothing, and are never those of another state of the file."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from emcfsys_engine.dataset.facts_cache import FactsCache
from emcfsys_engine.images.walk import stamp_of
from emcfsys_engine.shards.work import state_of


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "a.tif"
    file.write_bytes(b"pixels")
    return file


def test_a_fact_is_there_the_next_time_and_gone_when_the_file_changed(image: Path) -> None:
    kept = image.with_name("facts.json")
    cache = FactsCache(kept)
    assert cache.get(image, "size", int) is None
    cache.put(image, "size", 6)
    cache.save()
    assert FactsCache(kept).get(image, "size", int) == 6
    os.utime(image, ns=(1, 1))
    later = FactsCache(kept)
    assert later.get(image, "size", int) is None
    later.put(image, "size", 7)
    later.save()
    assert kept.read_text().count("a.tif") == 1  # the fact of the old state is dropped


def test_a_fact_of_a_zarr_folder_is_gone_when_a_file_within_changed(tmp_path: Path) -> None:
    mask, kept = tmp_path / "a.zarr", tmp_path / "facts.json"
    zarr.save_array(str(mask), np.tile(np.array([0, 1], np.uint8), (64, 32)))
    cache = FactsCache(kept)
    cache.put(mask, "pixels", 2048)
    cache.save()
    assert FactsCache(kept).get(mask, "pixels", int) == 2048
    before = mask.stat().st_mtime_ns, stamp_of(mask), state_of(mask)
    zarr.open_array(str(mask), mode="r+")[:32] = 1  # a person corrects it in napari
    assert mask.stat().st_mtime_ns == before[0]
    assert FactsCache(kept).get(mask, "pixels", int) is None
    assert stamp_of(mask) != before[1]  # a training that follows labels reads them again
    assert state_of(mask) != before[2]


def test_a_fact_of_another_kind_or_a_damaged_table_is_no_fact(image: Path) -> None:
    kept = image.with_name("facts.json")
    cache = FactsCache(kept)
    cache.put(image, "size", "six")
    cache.save()
    assert FactsCache(kept).get(image, "size", int) is None
    kept.write_bytes(kept.read_bytes()[:-5])
    assert FactsCache(kept).get(image, "size", str) is None


def test_a_place_that_cannot_be_written_is_done_without(image: Path) -> None:
    cache = FactsCache(image / "no folder" / "facts.json")
    cache.put(image, "size", 6)
    cache.save()
    assert cache.get(image, "size", int) == 6


def test_facts_of_names_that_are_no_utf8_come_back(image: Path) -> None:
    kept, other = image.with_name("facts.json"), image.rename(image.with_name("caf\udce9.tif"))
    cache = FactsCache(kept)
    cache.put(other, "size", 6)
    cache.save()
    assert FactsCache(kept).get(other, "size", int) == 6
