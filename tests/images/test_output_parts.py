"""Books of many tasks become one: what they wrote is known, and what a kill tore is not."""

from pathlib import Path

from emcfsys_engine.images.output_book import OutputBook, Wanted
from emcfsys_engine.images.output_parts import PartBook, made_in, take_in
from emcfsys_engine.images.own_files import digest_of_output


def _written(out: Path, name: str, book: OutputBook) -> Path:
    file = out / name
    file.write_text(name)
    book.note({file: digest_of_output(file)}, image=Path(f"/in/{name}"), content="c")
    return file


def test_what_tasks_noted_apart_is_known_after_it_was_taken_in(tmp_path: Path) -> None:
    whole = OutputBook(tmp_path)
    (names,) = whole.stems([Wanted(image="/in/a.tif", folder="")], ".png")
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
    assert OutputBook(tmp_path).stems([Wanted(image="/in/a.tif", folder="")], ".png") == [names]
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
