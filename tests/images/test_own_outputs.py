"""What a person made of a file of ours is kept; what another process of ours wrote is ours."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.output_book import FOLDER, OutputBook
from emcfsys_engine.images.output_names import WantedName
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.images.own_outputs import (
    OutputsBelow,
    PartBook,
    made_in,
    place_own,
    replace_own,
    take_in,
    write_own,
)


@pytest.mark.parametrize("is_ours_before", [True, False])
def test_what_a_person_saves_while_a_file_is_made_is_kept(
    tmp_path: Path, is_ours_before: bool
) -> None:
    book, file = OutputBook(tmp_path), tmp_path / "a.json"
    if is_ours_before:
        write_own(file, b"{}", book)

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"new")
        file.write_bytes(b"a person's")

    placed = place_own(file, book, write)
    assert (file.read_bytes(), placed.read_bytes()) == (b"a person's", b"new")
    assert placed == tmp_path / "a.v2.json"
    assert OutputBook(tmp_path).has(placed)


@pytest.mark.parametrize("takes_notes", [True, False])
def test_a_page_that_a_person_saves_under_its_name_meanwhile_is_kept_and_told(
    tmp_path: Path, takes_notes: bool
) -> None:
    book, file = OutputBook(tmp_path), tmp_path / "report.html"
    if not takes_notes:  # as a book of somebody else's
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / "outputs.jsonl").write_bytes(b"")
        (tmp_path / "other").hardlink_to(tmp_path / FOLDER / "outputs.jsonl")

    def write(place: Path) -> None:
        place.write_bytes(b"made")
        file.write_bytes(b"mine")

    with pytest.raises((InputError, FileExistsError)):
        replace_own(file, book, write)
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize("at_look", [1, 2, 3])
def test_what_a_person_saves_between_a_look_and_the_renaming_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_look: int
) -> None:
    book, file = OutputBook(tmp_path), tmp_path / "a.json"
    write_own(file, b"ours", book)
    looks: list[Path] = []
    has_now = book.has_now

    def and_they_save(place: Path, *, of_image: bool, lies_at: Path | None = None) -> bool:
        is_ours = has_now(place, of_image=of_image, lies_at=lies_at)
        looks.append(place)
        if len(looks) == at_look:
            file.write_bytes(b"a person's")
        return is_ours

    monkeypatch.setattr(book, "has_now", and_they_save)
    placed = write_own(file, b"ours, newer", book)
    assert (file.read_bytes(), placed.read_bytes()) == (b"a person's", b"ours, newer")
    assert sorted(one.name for one in tmp_path.iterdir()) == [".emcfsys", "a.json", "a.v2.json"]
    assert OutputBook(tmp_path).has(placed)


def test_what_another_process_wrote_a_moment_ago_is_ours(tmp_path: Path) -> None:
    """As after a kill: the process that takes the image over finds the mask there already."""
    ours, theirs = OutputBook(tmp_path), OutputBook(tmp_path)
    file = tmp_path / "a.json"
    theirs_file = write_own(file, b"one", theirs)
    assert not ours.has(file)
    assert ours.has_now(file, of_image=False)
    assert not ours.has_now(file, of_image=True)  # no prediction made it
    assert write_own(file, b"two", OutputBook(tmp_path)) == theirs_file == file
    file.write_bytes(b"a person's")
    assert not ours.has_now(file, of_image=False)


def test_what_was_written_into_an_output_below_is_told_from_images(tmp_path: Path) -> None:
    below = OutputsBelow(tmp_path)
    out = tmp_path / "today" / "masks"
    (out / "s").mkdir(parents=True)
    assert below.whose("today/masks/s/a.png") is None
    file = write_own(out / "s" / "a.png", b"a mask", OutputBook(out))
    later = write_own(out / "b.png", b"a mask", OutputBook(out))
    assert below.whose("today/masks/s/a.png") == out
    file.write_bytes(b"corrected by a person")
    assert below.whose("today/masks/s/a.png") == out
    assert below.whose("today/masks/b.png") == out
    assert below.whose("today/masks/c.png") is None
    assert below.whose("today/b.png") is None
    assert OutputsBelow(later.parent / "s").whose("a.png") is None  # above the root nobody looks


def _written(out: Path, name: str, book: OutputBook) -> Path:
    file = out / name
    file.write_text(name)
    book.note({file: digest_of_output(file)}, image=Path(f"/in/{name}"), content="c")
    return file


def test_what_tasks_noted_apart_is_known_after_it_was_taken_in(tmp_path: Path) -> None:
    whole = OutputBook(tmp_path)
    (names,) = whole.stems([WantedName(image="/in/a.tif", folder="")], ".png")
    before = _written(tmp_path, "before.png", whole)
    parts = [tmp_path / ".emcfsys" / f"{number}.book" for number in (0, 1)]
    files = [_written(tmp_path, f"{part.stem}.png", PartBook(tmp_path, part)) for part in parts]
    assert PartBook(tmp_path, parts[0]).has(before)
    assert PartBook(tmp_path, parts[0]).has(files[0])
    assert not PartBook(tmp_path, parts[0]).has(files[1])
    assert not OutputBook(tmp_path).has(files[0])
    parts[1].write_bytes(parts[1].read_bytes() + b'{"file": "torn')
    made = made_in(parts[1])
    assert made.contents == {"1.png": "c"}
    take_in(tmp_path, [*parts, tmp_path / "never"])
    assert all(OutputBook(tmp_path).has(file) for file in (before, *files))
    assert OutputBook(tmp_path).stems([WantedName(image="/in/a.tif", folder="")], ".png") == [names]
    assert not any(part.exists() for part in parts)


def test_taking_in_twice_changes_nothing(tmp_path: Path) -> None:
    part = tmp_path / ".emcfsys" / "0.book"
    file = _written(tmp_path, "a.png", PartBook(tmp_path, part))
    content = part.read_bytes()
    take_in(tmp_path, [part])
    part.write_bytes(content)  # killed before it was removed
    take_in(tmp_path, [part])
    found = OutputBook(tmp_path)
    assert found.has(file)
    assert found.made_of(file) == "c"
