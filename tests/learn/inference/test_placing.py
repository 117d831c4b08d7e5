"""Where the files of an image go."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import file_beside, instances_of
from emcfsys_engine.images.own_files import digest_of, digest_of_output
from emcfsys_engine.images.writers import companion
from emcfsys_engine.learn.inference.placing import OutputNames, _Listed


def test_names_mirror_folders_and_never_collide(tmp_path: Path) -> None:
    root = Path("/in")
    refs = [
        ImageRef(path=root / "a" / "x.dm4"),
        ImageRef(path=root / "a" / "x.tif"),
        ImageRef(path=root / "b" / "x.tif"),
        ImageRef(path=root / "s.mrc", plane=0),
        ImageRef(path=root / "s.mrc", plane=12),
    ]
    names = OutputNames(OutputBook(tmp_path), refs, ["/in"], ".png")
    assert [str(names.mask_of(ref).relative_to(tmp_path)) for ref in refs] == [
        "a/x.dm4.png",
        "a/x.tif.png",
        "b/x.png",
        "s.0000.png",
        "s.0012.png",
    ]


def test_masks_of_ome_files_say_ome_once(tmp_path: Path) -> None:
    refs = [ImageRef(path=Path("/in/x.ome.tif")), ImageRef(path=Path("/in/y.ome.zarr"))]
    names = OutputNames(OutputBook(tmp_path / "ome"), refs, ["/in"], ".ome.tif")
    assert [names.mask_of(ref).name for ref in refs] == ["x.ome.tif", "y.ome.tif"]
    names = OutputNames(OutputBook(tmp_path / "png"), refs, ["/in"], ".png")
    assert names.mask_of(refs[0]).name == "x.ome.png"


_STEMS = st.sampled_from(("x", "X", "x.overlay", "x.v2", "ä", "y" * 200, "x.png"))
_ENDS = st.sampled_from((".png", ".overlay.png", ".json", ".prob-a.png", ".instances.tif", ""))


@settings(max_examples=80, deadline=None)
@given(
    images=st.lists(_STEMS, min_size=1, max_size=4, unique=True),
    there=st.lists(st.tuples(_STEMS, _ENDS), max_size=4),
    rounds=st.integers(1, 2),
)
def test_what_one_listing_tells_of_outputs_is_what_asking_for_each_file_tells(
    tmp_path_factory: pytest.TempPathFactory,
    images: list[str],
    there: list[tuple[str, str]],
    rounds: int,
) -> None:
    root = tmp_path_factory.mktemp("case")
    for stem, end in there:
        (root / "out" / "sub").mkdir(parents=True, exist_ok=True)
        (root / "out" / "sub" / file_beside(stem, end)).write_bytes(b"a person's")
    (root / "in" / "sub").mkdir(parents=True)
    refs = [ImageRef(path=root / "in" / "sub" / f"{name}.tif") for name in images]
    for ref in refs:
        ref.path.write_bytes(b"image")

    def told(is_asked_each: bool) -> list[object]:
        book, found = OutputBook(root / "out"), list[object]()
        with pytest.MonkeyPatch.context() as patch:
            if is_asked_each:
                patch.setattr(_Listed, "may_have", lambda self, stem: True)
            for _ in range(rounds):
                names = OutputNames(book, refs, [str(root / "in")], ".png")
                found.append([names.has_mask(ref) for ref in refs])
                found.append(names.make_writable(refs, beside))
                found.append([names.mask_of(ref) for ref in refs])
        return found

    def beside(ref: ImageRef, mask: Path) -> list[Path]:
        return [mask, companion(mask, "overlay"), companion(mask, "prob-a"), instances_of(mask)]

    listed = told(False)
    shutil.rmtree(root / "out" / ".emcfsys", ignore_errors=True)
    assert listed == told(True)


def test_an_empty_folder_is_told_apart_from_one_with_files(tmp_path: Path) -> None:
    refs = [ImageRef(path=Path("/in/a.tif"))]
    (tmp_path / ".emcfsys").mkdir()
    assert OutputNames(OutputBook(tmp_path), refs, ["/in"], ".png").has_none
    assert OutputNames(OutputBook(tmp_path / "never"), refs, ["/in"], ".png").has_none
    (tmp_path / "a.png").write_bytes(b"of somebody else")
    names = OutputNames(OutputBook(tmp_path), refs, ["/in"], ".png")
    assert not names.has_none
    assert names.make_writable(refs, lambda ref, mask: [mask])


def test_a_mask_of_another_image_that_another_output_folder_knows_is_not_taken_for_done(
    tmp_path: Path,
) -> None:
    out, inner, mine = tmp_path / "out", tmp_path / "out" / "sub", tmp_path / "mine" / "a.png"
    for folder in (inner, mine.parent):
        folder.mkdir(parents=True)
    mine.write_bytes(b"an image")
    (inner / "a.png").write_bytes(b"a mask")
    outer, ref = OutputBook(out), ImageRef(path=mine)
    digest = digest_of_output(inner / "a.png")

    outer.note({inner / "a.png": digest}, image=tmp_path / "theirs.png", content="0" * 64)
    names = OutputNames(OutputBook(inner), [ref], [str(mine.parent)], ".png")
    assert not names.has_mask(ref)
    assert names.make_writable([ref], lambda _, mask: [mask])
    assert names.mask_of(ref) == inner / "a.v2.png"
    assert not names.has_mask(ref)

    content = digest_of(mine, mine.stat().st_size)
    outer.note({inner / "a.png": digest}, image=mine, content=content)
    assert OutputNames(OutputBook(inner), [ref], [str(mine.parent)], ".png").has_mask(ref)
