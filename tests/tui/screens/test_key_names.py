"""Names of keys in interface.toml."""

from pathlib import Path

from emcfsys_tui.screens.key_names import faults_of, known_names
from emcfsys_tui.settings import Settings
from tests.tui.conftest import opened, told, until


async def test_an_unknown_name_of_a_key_is_said_with_the_nearest(demo: Path) -> None:
    keys = {"runs.marc": "m", "data.next_bare": "b"}
    assert len(faults_of(keys)) == 1
    assert {"train.submit", "list.down", "tools.doctor", "app.help"} <= known_names()
    async with opened(demo, "1", settings=Settings(bell=False, keys=keys)) as pilot:
        await until(pilot, lambda: "runs.marc" in told(pilot) and "'runs.mark'" in told(pilot))
