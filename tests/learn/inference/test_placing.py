"""Where the files of an image go."""

from pathlib import Path

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.learn.inference.placing import OutputNames


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
