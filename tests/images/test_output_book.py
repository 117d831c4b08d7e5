"""The book knows what this program wrote, whatever happened to it or to the files."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import WantedName
from emcfsys_engine.images.own_files import digest_of_output, put
from emcfsys_engine.images.own_outputs import free_version, write_own


def test_what_was_written_is_known_until_somebody_changes_it(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    file = write_own(tmp_path / "a.csv", b"1,2\n", book)
    assert book.has(file)
    assert OutputBook(tmp_path).has(file)
    file.write_bytes(b"1,3\n")
    assert not book.has(file)
    assert free_version(file, book) == tmp_path / "a.v2.csv"
    assert write_own(file, b"1,4\n", book) == tmp_path / "a.v2.csv"
    assert write_own(file, b"1,5\n", book) == tmp_path / "a.v2.csv"
    assert file.read_bytes() == b"1,3\n"


def test_a_kill_between_note_and_name_leaves_the_old_file_known_as_of_the_old_image(
    tmp_path: Path,
) -> None:
    book, mask = OutputBook(tmp_path), tmp_path / "a.png"
    mask.write_bytes(b"old")
    book.note({mask: digest_of_output(mask)}, content="old image")
    book.note({mask: f"{'0' * 32}:3"}, content="new image")
    book.stems([WantedName(image="/in/a.tif", folder="")], ".png")
    again = OutputBook(tmp_path)
    assert again.has(mask)
    assert again.has(mask, "old image")
    assert not again.has(mask, "new image")
    assert again.made_of(mask) == "old image"
    origin = again.origin_of(mask)
    assert origin is not None
    assert origin.content == "old image"


def test_a_file_that_is_gone_when_it_is_read_again_is_not_noted_as_an_empty_one(
    tmp_path: Path,
) -> None:
    book, mask = OutputBook(tmp_path), tmp_path / "a.png"
    with pytest.raises(FileNotFoundError):
        book.note({mask: digest_of_output(mask)})
    assert not OutputBook(tmp_path).is_known(mask)
    (tmp_path / ".emcfsys").mkdir(exist_ok=True)
    book.file.write_text('{"file":"a.png","digest":"","image":"","content":""}\n')
    assert not OutputBook(tmp_path).has(mask)  # noted so by an older version


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    file = write_own(tmp_path / "a.csv", b"1\n", book)
    whole = book.file.read_bytes()
    for rubbish in (b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"stem": 1}\n', b"null\n", b"{"):
        book.file.write_bytes(rubbish + b"\n" + whole + rubbish)
        again = OutputBook(tmp_path)
        assert again.has(file)
        other = write_own(tmp_path / "b.csv", b"2\n", again)
        assert OutputBook(tmp_path).has(other)  # a torn last line spoils no new one


@pytest.mark.parametrize("lead", ["../precious", "sub/../../precious", "{elsewhere}/precious"])
def test_a_line_or_a_ledger_that_leads_out_of_the_folder_is_passed_over(
    tmp_path: Path, lead: str
) -> None:
    """Whoever may write into a shared folder could name files of others as outputs of ours."""
    out, precious = tmp_path / "out", tmp_path / "precious.png"
    precious.write_bytes(b"an original")
    name = lead.format(elsewhere=tmp_path)
    wanted = WantedName(image="/in/a.tif", folder="")
    lines = (
        {"image": wanted.image, "plane": None, "version": 1, "stem": name},
        {
            "file": f"{name}.png",
            "digest": digest_of_output(precious),
            "image": wanted.image,
            "content": "as it was",
        },
    )
    OutputBook(out).file.parent.mkdir(parents=True)
    OutputBook(out).file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    book = OutputBook(out)
    assert not book.has(precious)
    assert not book.has(out / f"{name}.png")
    book.adopt([(wanted, [name])])
    assert book.stems([wanted], ".png") == [("a",)]
    assert book.retire(WantedName(image=wanted.image, folder="", content="as it is")) == ([], [])
    assert precious.read_bytes() == b"an original"


def test_what_a_ledger_knows_of_a_moved_image_is_its_own_in_every_version(tmp_path: Path) -> None:
    """Its new mask was said to be of the image as it was, and measured nowhere."""
    book = OutputBook(tmp_path / "out")
    book.file.parent.mkdir(parents=True)

    def write(image: str, version: int, content: str) -> Path:
        wanted = WantedName(image=image, folder="", version=version, content=content)
        ((stem,),) = book.stems([wanted], ".png")
        file = book.out / f"{stem}.png"
        file.write_text(f"{image} {version} {content}")
        book.note({file: digest_of_output(file)}, image=Path(image), content=content)
        return file

    first, second = write("/old/a.tif", 1, "before"), write("/old/a.tif", 2, "before")
    first.write_text("painted over")
    moved = WantedName(image="/new/a.tif", folder="", version=2)
    for _ in range(2):
        book.adopt([(moved, ["a.v2"])])
    assert book.file.read_text().count('"/new/a.tif"') == 2  # a line a version, once
    book = OutputBook(book.out)
    origins = [book.origin_of(file) for file in (first, second)]
    assert [(one.image, one.version, one.is_outdated) for one in origins if one] == [
        (Path("/new/a.tif"), 1, False), (Path("/new/a.tif"), 2, False),
    ]  # fmt: skip
    assert write("/new/a.tif", 2, "after") == second
    origins = [book.origin_of(file) for file in (first, second)]
    assert [one.is_outdated for one in origins if one] == [True, False]


@pytest.mark.parametrize("is_written_again", [False, True])
def test_a_mask_of_the_image_before_keeps_being_of_the_image_before_wherever_that_is_moved(
    tmp_path: Path, is_written_again: bool
) -> None:
    """Once a watch had run in the moved project the old image's correction counted as the new's."""
    out = tmp_path / "out"
    book, masks = OutputBook(out), [out / "a.png", out / "a.v2.png"]
    book.file.parent.mkdir(parents=True)
    for version, mask in enumerate(masks, start=1):
        content = "before" if version == 1 else "after"
        book.stems([WantedName(image="/one/a.tif", folder="", version=version)], ".png")
        mask.write_text(content)
        book.note({mask: digest_of_output(mask)}, image=Path("/one/a.tif"), content=content)
    masks[0].write_text("painted over")

    for image in ("/two/a.tif", "/three/a.tif", "/one/a.tif"):
        book.adopt([(WantedName(image=image, folder="", version=2), ["a.v2"])])
        if is_written_again and image != "/one/a.tif":
            book.file.unlink()
            book.write_again()
        book = OutputBook(out)
        origins = [one for mask in masks if (one := book.origin_of(mask)) is not None]
        assert [one.image for one in origins] == [Path(image)] * 2
        assert [one.is_outdated for one in origins] == [True, False]
        assert book.predicted_last(image) == "after"


def test_two_processes_never_give_one_name_twice(tmp_path: Path) -> None:
    one, other = OutputBook(tmp_path), OutputBook(tmp_path)
    names = [
        book.stems([WantedName(image=f"/{number}/a.tif", folder="")], ".png")[0]
        for number, book in enumerate((one, other, one, other))
    ]
    assert len(set(names)) == 4


def test_a_book_that_was_removed_is_written_again(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    wanted = WantedName(image="/in/a.tif", folder="")
    book.stems([wanted], ".png")
    file = write_own(tmp_path / "a.png", b"mask", book)
    book.note({file: digest_of_output(file)}, image=wanted.image, content="digest")
    book.file.unlink()
    book.write_again()
    again = OutputBook(tmp_path)
    assert again.has(file, "digest")
    assert again.stems([wanted], ".png") == [("a",)]


def test_nothing_is_written_where_another_folder_lies_now(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    book = OutputBook(out)
    out.rename(tmp_path / "away")
    out.mkdir()
    with pytest.raises(OSError) as caught:
        book.note({out / "a": "d:1"})
    assert caught.value.errno == errno.ESTALE
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_somebody_took_meanwhile_is_not_replaced(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def refused(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refused)
    temporary, place = tmp_path / ".a.tmp", tmp_path / "a"
    temporary.write_bytes(b"ours")
    place.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        put(temporary, place, may_replace=False)
    assert place.read_bytes() == b"theirs"
    place.unlink()
    put(temporary, place, may_replace=False)
    assert place.read_bytes() == b"ours"
    assert not temporary.exists()


def test_a_link_is_none_of_ours(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    file = write_own(tmp_path / "a.png", b"mask", book)
    file.rename(tmp_path / "b.png")
    file.symlink_to("b.png")
    assert not book.has(file)


@pytest.mark.parametrize("kind", ["pipe", "link", "second name", "folder"])
def test_what_lies_in_the_books_place_is_not_waited_for_nor_written_to(
    tmp_path: Path, kind: str
) -> None:
    file, mine = tmp_path / ".emcfsys" / "outputs.jsonl", tmp_path / "notes.txt"
    file.parent.mkdir()
    mine.write_text("mine\n")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(mine)
    elif kind == "second name":
        os.link(mine, file)
    else:
        file.mkdir()
    book = OutputBook(tmp_path)
    with pytest.raises(OSError, match=r"is a link or a pipe|no plain file|second name|directory"):
        book.stems([WantedName(image=f"{tmp_path}/a.tif", folder="")], ".png")
    assert mine.read_text() == "mine\n"


def test_a_book_that_grew_huge_by_damage_costs_no_memory(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    (stem,) = book.stems([WantedName(image=f"{tmp_path}/a.tif", folder="")], ".png")
    with book.file.open("r+b") as stream:
        stream.seek(200 << 20)
        stream.write(b"\n")
    again = OutputBook(tmp_path)
    assert again.stems([WantedName(image=f"{tmp_path}/a.tif", folder="")], ".png") == [stem]


def test_a_book_that_is_written_again_tells_of_masks_what_it_told_before(tmp_path: Path) -> None:
    book, images = OutputBook(tmp_path), ("/in/a.tif", "/in/b.tif", "/in/copy_of_b.tif")
    contents = dict(zip(images, ("first", "same", "same"), strict=True))
    wanted = [WantedName(image=one, folder="", content=contents[one]) for one in images]
    masks = [tmp_path / f"{stem}.png" for (stem,) in book.stems(wanted, ".png")]
    overlay = tmp_path / "a.overlay.png"

    def write(place: Path, image: str, content: str) -> None:
        place.write_bytes(f"{place.name} of {content}".encode())
        book.note({place: digest_of_output(place)}, image=Path(image), content=content)

    write(masks[0], images[0], "first")
    write(overlay, images[0], "first")
    for mask, image in zip(masks[1:], images[1:], strict=True):
        write(mask, image, "same")
    write(masks[0], images[0], "second")  # rewritten, and nobody wanted an overlay any more

    def told(by: OutputBook) -> list[object]:
        order = sorted([*masks, overlay], key=by.order_of)
        return [[by.origin_of(one) for one in masks], *map(by.predicted_last, images), order]

    def without_numbers(by: OutputBook) -> str:
        return re.sub(r"order=\d+", "", str(told(by)))

    before = without_numbers(OutputBook(tmp_path))
    book.file.unlink()
    book.write_again()
    assert without_numbers(OutputBook(tmp_path)) == before
    assert "is_outdated=True" not in before
