"""Every message says what can be done about it, and names a file that is there."""

from pathlib import Path

from emcfsys_tui.engine.notices import file_in, is_text, of_line, remedy_for


def test_short_memory_has_its_own_remedy_unless_the_reason_says_it() -> None:
    assert "training.batch" in remedy_for("failed", "CUDA out of memory")
    said = remedy_for("failed", "out of memory. Lower training.batch")
    assert said == remedy_for("failed", "anything")


def test_the_file_of_a_fault_is_found_however_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "project.toml").touch()
    (tmp_path / "a.tif").touch()
    assert file_in("a.tif#3", tmp_path) == tmp_path / "a.tif"
    assert file_in("project.toml: training.steps", tmp_path) == tmp_path / "project.toml"
    assert file_in("data.0.images", tmp_path) == tmp_path / "project.toml"
    assert file_in("b.tif", tmp_path) is None


def test_an_editor_is_offered_for_texts_alone(tmp_path: Path) -> None:
    for name, content in (("a.json", b"{}"), ("b.json", b"{\0}"), ("c.png", b"text")):
        (tmp_path / name).write_bytes(content)
    assert [is_text(tmp_path / name) for name in ("a.json", "b.json", "c.png", "d")] == [
        True, False, False, False,
    ]  # fmt: skip
    assert not is_text(tmp_path)


def test_a_line_of_a_log_opens_whole(tmp_path: Path) -> None:
    (tmp_path / "log.txt").touch()
    notice = of_line("12:00", "one\ntwo", "run-0001", tmp_path / "log.txt").notice
    assert (notice.what, notice.file) == ("one\ntwo", tmp_path / "log.txt")
