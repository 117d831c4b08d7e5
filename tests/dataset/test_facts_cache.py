"""Facts of files cost a second look nothing, and are never those of another state of the file."""

import os
from pathlib import Path

import pytest

from emcfsys_engine.dataset.facts_cache import FactsCache


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
