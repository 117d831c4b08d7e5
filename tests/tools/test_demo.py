"""The demo: made the same again, without a fault, as it lies in the repository."""

from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.project import load_project
from emcfsys_engine.tools import demo
from emcfsys_engine.tools.check import check_project
from emcfsys_engine.tools.demo import make_demo, play_microscope

SHIPPED = Path(__file__).resolve().parents[2] / "projects" / "demo"


@pytest.mark.long
def test_the_shipped_demo_is_what_the_generator_makes(tmp_path: Path) -> None:
    made = make_demo(tmp_path / "demo")
    assert len(made) == 13
    for file in (tmp_path / "demo").rglob("*"):
        shipped = SHIPPED / file.relative_to(tmp_path / "demo")
        if file.suffix in (".toml", ".json"):
            assert file.read_text() == shipped.read_text(), file.name
        elif file.is_file():
            assert shipped.is_file()


def test_check_finds_no_error_in_the_demo() -> None:
    report = check_project(load_project(SHIPPED))
    assert report.errors == ()
    assert {one.name for one in report.classes} == {"background", "membrane", "mitochondrion"}


@pytest.mark.long
def test_what_somebody_lays_into_the_folder_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = demo.encode_png

    def encoded(pixels: np.ndarray) -> bytes:
        (tmp_path / "project.toml").write_text("mine")
        return encode(pixels)

    monkeypatch.setattr(demo, "encode_png", encoded)
    with pytest.raises(InputError, match="cannot be written: File exists"):
        demo.make_demo(tmp_path, num_train=1, num_val=1)
    assert [file.name for file in tmp_path.iterdir()] == ["project.toml"]
    assert (tmp_path / "project.toml").read_text() == "mine"


def test_the_microscope_writes_whole_files_in_every_manner(tmp_path: Path) -> None:
    pauses: list[float] = []
    for manner in ("whole", "slow", "rename", "burst", "mixed"):
        folder = tmp_path / manner
        made = list(
            play_microscope(folder, manner=manner, every_s=1, count=3, pause=pauses.append)  # type: ignore[arg-type]
        )
        assert sorted(folder.iterdir()) == sorted(made)
        assert all(file.read_bytes().endswith(b"IEND\xaeB`\x82") for file in made)
    assert pauses


def test_the_microscope_overwrites_no_image(tmp_path: Path) -> None:
    (tmp_path / "grid_00001.png").write_text("of a real microscope")
    made = play_microscope(tmp_path, manner="whole", count=2, pause=lambda _: None)
    assert [file.name for file in made] == ["grid_00000.png", "grid_00002.png"]
    assert (tmp_path / "grid_00001.png").read_text() == "of a real microscope"
