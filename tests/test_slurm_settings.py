"""What a project and a user may say to Slurm; no cluster is needed."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import ProjectFaults
from emcfsys_engine.project import load_project
from emcfsys_engine.settings import SlurmDefaults, SlurmSettings, load_config, merged

PROJECT = """
[project]
name = "a"
[classes]
x = 0
y = 1
[[data]]
images = "i"
masks = "m"
[compute]
executor = "slurm"
"""


def _project(folder: Path, text: str) -> SlurmSettings:
    for name in ("i", "m"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "project.toml").write_text(f"{PROJECT}\n[compute.slurm]\n{text}\n")
    return load_project(folder).compute.slurm


def test_a_project_says_what_it_needs(tmp_path: Path) -> None:
    text = 'partition = "gpu"\ntime = "1-02:00:00"\nmemory = "32G"\nextra = ["--constraint=a100"]'
    settings = _project(tmp_path, text)
    assert (settings.partition, settings.time, settings.memory) == ("gpu", "1-02:00:00", "32G")
    assert settings.extra == ("--constraint=a100",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('prolog = ["rm -rf ~"]', "your own config.toml only"),
        ('extra = ["--wrap=rm"]', "may not be passed on"),
        ('extra = ["--wra=rm"]', "may not be passed on"),
        ('extra = ["--output=/etc/passwd"]', "may not be passed on"),
        ('extra = ["-o/etc/passwd"]', "may not be passed on"),
        ('extra = ["--comment=a\\n--wrap=b"]', "may not be passed on"),
        ('time = "soon"', "does not fit"),
        ('memory = "lots"', "does not fit"),
        ('partition = "a b"', "does not fit"),
        ('partitoin = "gpu"', "Did you mean 'partition'"),
    ],
)
def test_what_a_project_may_not_say_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ProjectFaults) as caught:
        _project(tmp_path, text)
    assert words in str(caught.value)
    assert "compute.slurm" in str(caught.value)


def test_the_users_defaults_fill_in_and_the_project_wins(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[slurm]\npartition = "gpu"\naccount = "lab"\nextra = ["--constraint=v100", "--nice=5"]\n'
        'prolog = ["module load cuda"]\n'
    )
    defaults = load_config(file).slurm
    assert defaults.prolog == ("module load cuda",)
    asked = _project(tmp_path, 'partition = "big"\nextra = ["--constraint=a100"]')
    settings = merged(asked, defaults)
    assert (settings.partition, settings.account) == ("big", "lab")
    assert settings.extra == ("--constraint=a100", "--nice=5")
    assert merged(SlurmSettings(), SlurmDefaults()) == SlurmSettings()
