"""What all take is reckoned from a few of middling size, and from the fullest task place."""

from pathlib import Path

from emcfsys_engine.shards.forecast import bytes_of, fullest_s, peak_bytes, to_try


def test_a_few_of_middling_size_are_tried() -> None:
    pixels = [9, 1, 8, 2, 7, 3, 6, 4, 5, 0]
    assert sorted(pixels[n] for n in to_try(pixels)) == [2, 5, 7]
    assert to_try([4]) == [0]


def test_the_fullest_place_tells_the_time() -> None:
    assert fullest_s([100, 50, 50], 2, 10.0) == 10.0
    assert fullest_s([100, 50, 50], 1, 10.0) == 20.0


def test_a_folder_has_the_bytes_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"1234")
    (tmp_path / "c").write_bytes(b"12")
    assert bytes_of(tmp_path, -1) == 6
    assert bytes_of(tmp_path, 3) == 3
    assert peak_bytes() > 1 << 20
