"""A microscope to practise with: it writes as real ones do, slowly, in pieces, in bursts."""

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.demo import encode_png, make_micrograph

Manner = Literal["whole", "slow", "rename", "burst", "mixed"]
_PIECES = 8
_BURST = 10


def play_microscope(
    folder: Path,
    *,
    manner: Manner = "mixed",
    every_s: float = 2.0,
    count: int | None = None,
    seed: int = 7,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Path]:
    """Write micrographs into a folder, one after the other; yield each when it is complete.

    whole: at once; slow: in eight pieces over half the interval; rename: under a temporary name,
    then renamed; burst: ten at once, then a long pause; mixed: any of these, by chance.
    Raises: InputError if the folder cannot be written.
    """
    chance = random.Random(seed)
    numbers = itertools.count() if count is None else range(count)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            _, pixels = make_micrograph(seed, 10_000 + number)
            file = folder / f"grid_{number:05d}.png"
            how = (
                chance.choice(("whole", "slow", "rename", "burst")) if manner == "mixed" else manner
            )
            _write(file, encode_png(pixels), how, every_s, pause)
            yield file
            is_in_burst = how == "burst" and number % _BURST
            if not is_in_burst:
                pause(every_s)
    except OSError as error:
        raise InputError(folder, f"cannot be written: {error.strerror}", "Free space") from None


def _write(
    file: Path, content: bytes, how: str, every_s: float, pause: Callable[[float], None]
) -> None:
    if how == "rename":
        temporary = file.with_name(f"{file.name}.part")
        temporary.write_bytes(content)
        temporary.replace(file)
        return
    if how != "slow":
        file.write_bytes(content)
        return
    size = -(-len(content) // _PIECES)
    with file.open("wb") as stream:
        for start in range(0, len(content), size):
            stream.write(content[start : start + size])
            stream.flush()
            os.fsync(stream.fileno())
            pause(every_s / 2 / _PIECES)
