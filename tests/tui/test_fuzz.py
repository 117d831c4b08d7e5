"""Random keys and clicks end in no exception; where they quit, the interface is opened again."""

import random
from pathlib import Path

import pytest
from textual.pilot import Pilot

from emcfsys_tui.app import EmcfApp
from tests.tui.conftest import made_run, opened

_KEYS = """
1 2 3 4 5 6 up down left right enter escape tab shift+tab space slash colon o c k question_mark
plus underscore comma full_stop less_than_sign H L J K a b e f g i m n p r s t u v w x y z P R D S
G E Z j h l d pageup pagedown home end 0 backspace delete left_square_bracket right_square_bracket
"""
_MANY = 5000


async def _press(folder: Path, seed: int, count: int) -> int:
    """Press and click so many times in all; return how often that quit the interface."""
    chance = random.Random(seed)
    done = num_quits = 0
    while done < count:
        async with opened(folder, size=(100, 30), read_only=True) as pilot:
            app = pilot.app
            assert isinstance(app, EmcfApp)
            while done < count and app.return_code is None:
                await _do_one(pilot, chance)
                done += 1
                assert app.crashed is None, f"seed {seed}, key {done}: {app.crashed!r}"
                if not app.is_running:
                    break
            num_quits += not app.is_running
            assert app.return_code in (None, 0)
    return num_quits


async def _do_one(pilot: Pilot[None], chance: random.Random) -> None:
    """One key or one click, now and then another size of the terminal."""
    if chance.random() < 0.1:
        await pilot.click(offset=(chance.randrange(100), chance.randrange(30)))
    else:
        await pilot.press(chance.choice(_KEYS.split()))
    if pilot.app.is_running and chance.random() < 0.01:
        await pilot.resize_terminal(chance.randrange(40, 180), chance.randrange(10, 50))
        await pilot.resize_terminal(100, 30)


async def test_a_hundred_random_keys(demo: Path) -> None:
    made_run(demo)
    await _press(demo, 1, 100)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 2, 3, 4, 5])
async def test_five_thousand_random_keys_over_five_seeds(demo: Path, seed: int) -> None:
    made_run(demo)
    made_run(demo, ended=False)
    await _press(demo, seed, _MANY // 5)
