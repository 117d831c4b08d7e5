"""The user's own config file: every key checked, unknown ones named with the nearest."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import ProjectError, ProjectFaults
from emcfsys_engine.settings import Config, config_file, load_config


def _load(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_config(file)


def test_no_file_means_defaults(tmp_path: Path) -> None:
    assert load_config(tmp_path / "none.toml") == Config()
    assert Config().jobs.grace_s == 30


def test_every_table_is_read(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        '[notify]\ncommand = ["notify-send", "EMCFsys"]\n[hooks]\nimage_done = ["copy"]\n'
        "[jobs]\ngrace_s = 5\ncpu_slots = 3\n[groups]\nnight = 2\n",
    )
    assert config.notify.command == ("notify-send", "EMCFsys")
    assert config.hooks.image_done == ("copy",)
    assert (config.jobs.grace_s, config.jobs.cpu_slots, config.groups) == (5, 3, {"night": 2})


def test_every_fault_is_named_at_once_with_the_nearest_key(tmp_path: Path) -> None:
    with pytest.raises(ProjectFaults) as caught:
        _load(
            tmp_path,
            '[job]\n[jobs]\ngrace = 5\ncpu_slots = 0\n[notify]\ncommand = "rm -rf"\n'
            "[groups]\nnight = 0\n",
        )
    text = str(caught.value)
    for part in ("'jobs'", "'grace_s'", "jobs.cpu_slots", "notify.command", "groups"):
        assert part in text
    assert caught.value.exit_code == 2


def test_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("")
    file.chmod(0o666)
    with pytest.raises(ProjectError, match="may be written by others"):
        load_config(file)


def test_place_follows_the_environment(tmp_path: Path) -> None:
    found = config_file({"XDG_CONFIG_HOME": str(tmp_path)})
    assert found == tmp_path / "emcfsys/config.toml"
    own = Path.home() / ".config/emcfsys/config.toml"
    assert config_file({"XDG_CONFIG_HOME": "relative"}) == own
