"""What an image's digest tells, and what no digest is ever taken of."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.images.own_files import digest_of, is_content, is_other_file

CONTENT = bytes(range(256)) * 1000


@given(place=st.integers(0, len(CONTENT) - 1))
def test_a_digest_tells_a_rewrite_anywhere_from_a_touch(
    tmp_path_factory: pytest.TempPathFactory, place: int
) -> None:
    file = tmp_path_factory.mktemp("digest") / "a"
    file.write_bytes(CONTENT)
    first = digest_of(file, len(CONTENT))
    file.touch()
    assert digest_of(file, len(CONTENT)) == first
    changed = bytearray(CONTENT)
    changed[place] ^= 1
    file.write_bytes(changed)
    assert digest_of(file, len(CONTENT)) != first


def test_a_large_file_is_told_by_blocks_all_over_it_its_last_byte_among_them(
    tmp_path: Path,
) -> None:
    file, size = tmp_path / "a", (1 << 30) + 1
    file.touch()
    os.truncate(file, size)
    first = digest_of(file, size)
    for place in (0, size // 2 // (1 << 16) * (1 << 16), size - 1):
        with file.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"x" * (4 << 20))
        os.truncate(file, size)
        now = digest_of(file, size)
        assert now != first
        first = now


def test_a_digest_that_an_older_version_noted_is_known(tmp_path: Path) -> None:
    file, size = tmp_path / "a", len(CONTENT)
    file.write_bytes(CONTENT)
    older = hashlib.blake2b(str(size).encode(), digest_size=16)
    older.update(CONTENT[:65_536] + CONTENT[-65_536:])
    assert is_content(older.hexdigest(), file, size, digest_of(file, size))
    file.write_bytes(b"x" + CONTENT[1:])
    assert not is_content(older.hexdigest(), file, size, digest_of(file, size))


def test_a_pipe_in_an_images_place_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(OSError, match="is a pipe"):
        digest_of(tmp_path / "a", 1 << 20)


def test_a_folder_a_pipe_or_the_image_itself_is_no_mask_that_is_there(tmp_path: Path) -> None:
    image, mask = tmp_path / "in.png", tmp_path / "a.png"
    image.write_bytes(b"image")
    assert not is_other_file(mask, image)
    mask.mkdir()
    assert not is_other_file(mask, image)
    (mask / "zarr.json").touch()
    assert is_other_file(mask, image)
    os.mkfifo(tmp_path / "b.png")
    assert not is_other_file(tmp_path / "b.png", image)
    (tmp_path / "c.png").write_bytes(b"image")
    assert not is_other_file(tmp_path / "c.png", image)
    (tmp_path / "d.png").write_bytes(b"mask!")
    assert is_other_file(tmp_path / "d.png", image)
