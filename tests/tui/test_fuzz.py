"""Random keys and clicks end in no exception; where they quit, the interface is opened again."""

import random
from pathlib import Path

import pytest
from textual.events import Key
from textual.keys import key_to_character
from textual.pilot import Pilot

from emcfsys_tui.app import EmcfApp
from tests.thorough import tries
from tests.tui.conftest import made_run, opened

_KEYS = """
1 2 3 4 5 6 up down left right enter escape tab shift+tab space slash colon o c k question_mark
plus underscore comma full_stop less_than_sign H L J K a b e f g i m n p r s t u v w x y z P R D S
G E Z j h l d pageup pagedown home end 0 backspace delete left_square_bracket right_square_bracket
"""
_MANY, _SEEDS = tries(800, 5000), (0, 2, 3, 4, 5)[: tries(2, 5)]


async def _press(folder: Path, seed: int, count: int) -> int:
    """Press and click so many times in all; return how often that quit the interface."""
    chance = random.Random(seed)
    done = num_quits = 0
    while done < count:
        async with opened(folder, size=(100, 30), read_only=True) as pilot:
            app = pilot.app
            assert isinstance(app, EmcfApp)
            while done < count and app.return_code is None:
                done += await _do_some(pilot, chance, count - done)
                assert app.crashed is None, f"seed {seed}, key {done}: {app.crashed!r}"
                if not app.is_running:
                    break
            num_quits += not app.is_running
            assert app.return_code in (None, 0)
    return num_quits


async def _do_some(pilot: Pilot[None], chance: random.Random, most: int) -> int:
    """A click, a key, or a burst of keys; return how many. Now and then another size.

    The program lets each key of a burst wait until the one before has acted (`key_order`).
    """
    number = 1
    if chance.random() < 0.2:
        await pilot.click(offset=(chance.randrange(100), chance.randrange(30)))
    else:
        number = min(most, chance.choice((1, 1, 2, 4, 8)))
        await _type(pilot, [chance.choice(_KEYS.split()) for _ in range(number)])
    if pilot.app.is_running and chance.random() < 0.03:
        await pilot.resize_terminal(chance.randrange(40, 180), chance.randrange(10, 50))
        await pilot.resize_terminal(100, 30)
    return number


async def _type(pilot: Pilot[None], keys: list[str]) -> None:
    """Press keys at once, and wait until each has acted."""
    app = pilot.app
    assert isinstance(app, EmcfApp)
    assert app._driver is not None
    for key in keys[:-1]:
        event = Key(key, key_to_character(key))
        event.set_sender(app)
        app._driver.send_message(event)
    await pilot.press(keys[-1])
    while app.is_running and app._typed:
        await pilot.pause(0.01)


async def test_a_hundred_random_keys(demo: Path) -> None:
    made_run(demo)
    await _press(demo, 1, 100)


@pytest.mark.long
@pytest.mark.parametrize("seed", _SEEDS)
async def test_many_random_keys_over_several_seeds(demo: Path, seed: int) -> None:
    made_run(demo)
    made_run(demo, ended=False)
    await _press(demo, seed, _MANY // len(_SEEDS))
