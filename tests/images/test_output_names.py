"""No two images share a file, whatever they are called and whatever is written beside a mask."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import (
    LABEL_SUFFIXES,
    MASK_SUFFIXES,
    Owner,
    Stems,
    WantedName,
    file_beside,
    key_of_file,
    keys_of,
)
from emcfsys_engine.images.writers import companion, is_companion

PARTS = (
    "a", "A", "b", "s", "x.ome", "a.png", "ä", "a\u0308", "annotations", "ranking", "a" * 160,
    "ß", "b" * 235, "\udcff",
)  # fmt: skip
MIDDLES = (
    "",
    ".0001",
    ".0000",
    ".v2",
    ".overlay",
    ".view",
    ".uncertainty",
    ".prob-a",
    ".ome",
    "~2",
)
ENDS = (".tif", ".png", ".dm4", ".ome.tif", ".png.tif", ".TIF")
KINDS = ("overlay", "uncertainty", "view", "prob-a", "prob-a.tif", "prob-" + "c" * 200, "prob-.ome")

names = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(PARTS),
    st.sampled_from(MIDDLES),
    st.sampled_from(MIDDLES),
    st.sampled_from(ENDS),
).filter(lambda name: len(name.encode("utf-8", "surrogateescape")) <= 255)
images = st.builds(
    lambda folder, name, stack, version: WantedName(
        image=str(Path("/in") / folder / name),
        folder=folder,
        planes=tuple(range(3)) if stack else (None,),
        version=version,
    ),
    st.sampled_from(("", "", "sub")),
    names,
    st.booleans(),
    st.sampled_from((1, 1, 1, 2)),
)
batches = st.lists(
    st.lists(images, min_size=1, max_size=5, unique_by=lambda one: (one.image, one.version)),
    min_size=1,
    max_size=4,
)


def files_of(stem: str) -> set[str]:
    """Return every file that may ever be written for a stem, as a careless disk takes it."""
    folder, slash, name = stem.rpartition("/")
    ends = [*MASK_SUFFIXES, *LABEL_SUFFIXES, *(f".{kind}.png" for kind in KINDS)]
    return {f"{folder}{slash}{file_beside(name, end)}".casefold() for end in ends}


@settings(max_examples=150, deadline=None)
@given(batches=batches, suffix=st.sampled_from(MASK_SUFFIXES))
def test_no_two_images_share_a_file_and_names_stay_when_files_are_added(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[WantedName]], suffix: str
) -> None:
    out = tmp_path_factory.mktemp("out")
    book = OutputBook(out)
    given_names: dict[tuple[Path, int | None, int], str] = {}
    for batch in batches:
        for wanted, stems in zip(batch, book.stems(batch, suffix), strict=True):
            for plane, stem in zip(wanted.planes, stems, strict=True):
                key = (wanted.image, plane, wanted.version)
                assert given_names.setdefault(key, stem) == stem
    owners: Counter[str] = Counter()
    for stem in given_names.values():
        owners.update(files_of(stem))
        assert (
            max(len(Path(file).name.encode("utf-8", "surrogateescape")) for file in files_of(stem))
            <= 255
        )
    shared = {file for file, number in owners.items() if number > 1}
    assert not shared
    assert not {"annotations.json", "ranking.json"} & set(owners)
    again = OutputBook(out)
    everything = [wanted for batch in batches for wanted in batch]
    assert again.stems(everything, suffix) == book.stems(everything, suffix)


@given(name=names.map(lambda name: name.rpartition(".")[0]))
def test_every_file_of_a_stem_leads_back_to_its_keys(name: str) -> None:
    for file in files_of(name):
        assert key_of_file(file) in keys_of(name)


def stem_of_one(book: OutputBook, name: str, *, planes: tuple[int | None, ...] = (None,)) -> str:
    wanted = WantedName(image=f"/in/{name}", folder="", planes=planes)
    return book.stems([wanted], ".png")[0][-1]


def test_simple_names_are_as_they_always_were(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    assert stem_of_one(book, "x.tif") == "x"
    assert stem_of_one(book, "y.0001.tif") == "y.0001"
    assert stem_of_one(book, "z.v2.tif") == "z.v2"
    assert stem_of_one(book, "s.mrc", planes=(0, 12)) == "s.0012"
    assert stem_of_one(book, "x.dm4") == "x.dm4"  # it came later: x has its owner


def test_a_stack_and_files_called_like_its_planes_have_masks_of_their_own(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    assert stem_of_one(book, "s.0001.tif") == "s.0001"
    assert stem_of_one(book, "s.tif", planes=(0, 1)) == "s.tif.0001"


def test_of_names_that_meet_the_shorter_has_the_companions(tmp_path: Path) -> None:
    wanted = [WantedName(image=f"/in/{name}", folder="") for name in ("b.overlay.tif", "b.tif")]
    assert OutputBook(tmp_path).stems(wanted, ".png") == [("b.overlay.tif",), ("b",)]


def test_images_of_two_folders_have_masks_of_their_own(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    wanted = [WantedName(image=f"/{day}/a.tif", folder="") for day in ("monday", "tuesday")]
    stems = [stem for (stem,) in book.stems(wanted, ".png")]
    assert len(set(stems)) == 2
    later = WantedName(image="/wednesday/a.tif", folder="")
    assert book.stems([later], ".png")[0][0] not in stems


def test_an_image_is_known_again_when_its_folder_moved(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    before = WantedName(image="/before/a.tif", folder="", content="digest")
    assert book.stems([before], ".png") == [("a",)]
    book.note({tmp_path / "a.png": "d:1"}, image=before.image, content="digest")
    moved = WantedName(image="/after/a.tif", folder="", content="digest")
    another = WantedName(image="/other/a.tif", folder="", content="another digest")
    assert book.stems([another], ".png") != [("a",)]
    assert book.stems([moved], ".png") == [("a",)]


def test_a_companion_whose_name_was_cut_is_still_told_from_a_mask(tmp_path: Path) -> None:
    mask = tmp_path / f"{'m' * 230}.png"
    mask.touch()
    beside = companion(mask, "uncertainty")
    assert len(beside.name) <= 255
    beside.touch()
    assert is_companion(beside)
    assert not is_companion(mask)


_TAKEN = st.tuples(
    st.sampled_from(["/in/a.tif", "/in/b.tif", "/in/c.tif"]),
    st.sampled_from([None, 0, 1]),
    st.integers(1, 2),
    st.sampled_from(["a", "A", "b", "a.overlay", "sub/a", "x" * 200]),
)


def _all_kept(
    taken: Iterable[tuple[str, int | None, int, str]],
) -> tuple[dict[Owner, str], dict[str, str], dict[str, Owner]]:
    """Return the same by tables that keep everything: stems, owners of keys, owners of stems."""
    stems: dict[Owner, str] = {}
    images: dict[str, str] = {}
    owners: dict[str, Owner] = {}
    for image, plane, version, stem in taken:
        stems[image, plane, version] = stem
        owners[stem] = (image, plane, version)
        images |= dict.fromkeys(keys_of(stem), image)
    return stems, images, owners


@given(st.lists(_TAKEN, max_size=8))
@example([(f"/in/{image}.tif", None, 1, stem) for image, stem in ("aa", "ab", "bb", "ba")])
def test_stems_are_those_of_tables_that_keep_everything(
    taken: list[tuple[str, int | None, int, str]],
) -> None:
    found = Stems()
    for image, plane, version, stem in taken:
        found.take(image, plane, version, stem)
    stems, images, owners = _all_kept(taken)
    assert dict(found.items()) == stems
    for image, plane, version, stem in taken:
        assert found.of(image, plane, version) == stems[image, plane, version]
        assert found.owner_of(stem) == owners[stem]
        mine = [one for i, _, v, one in taken if (i, v) == (image, version)]
        assert set(found.all_of(image, version)) == set(mine)
        newest = max(v for i, p, v, _ in taken if (i, p) == (image, plane))
        assert found.newest_of(image, plane) == newest
        for asker in ("/in/a.tif", "/in/z.tif"):
            free = all(images.get(key, asker) == asker for key in keys_of(stem))
            assert found.is_free(stem, asker) == free
