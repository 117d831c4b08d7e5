"""Random keys and clicks end in no exception."""

import random
from pathlib import Path

import pytest

from tests.tui.conftest import made_run, opened

_KEYS = """
1 2 3 4 5 6 up down left right enter escape tab shift+tab space slash colon o c k question_mark
plus minus comma full_stop less_than_sign H L J K a b e f g i m n p r s t u v w x y z P R D S G
j h l d pageup pagedown home end 0 backspace delete left_square_bracket right_square_bracket
"""


async def _press(folder: Path, seed: int, count: int) -> None:
    chance = random.Random(seed)
    keys = _KEYS.split()
    async with opened(folder, size=(100, 30), read_only=True) as pilot:
        for _ in range(count):
            if chance.random() < 0.1:
                await pilot.click(offset=(chance.randrange(100), chance.randrange(30)))
            else:
                await pilot.press(chance.choice(keys))
            if chance.random() < 0.01:
                await pilot.resize_terminal(chance.randrange(40, 180), chance.randrange(10, 50))
                await pilot.resize_terminal(100, 30)
            assert pilot.app.is_running


async def test_a_hundred_random_keys(demo: Path) -> None:
    made_run(demo)
    await _press(demo, 1, 100)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(1))
async def test_a_thousand_random_keys(demo: Path, seed: int) -> None:
    made_run(demo)
    made_run(demo, ended=False)
    await _press(demo, seed, 1000)
