"""What stands beside a mask: its names begin with the mask's stem and say what they are."""

import re
from pathlib import Path

MASK_SUFFIXES = (".ome.zarr", ".ome.tif", ".png", ".tif")  # longest first
# x.overlay.png, x.prob-<class>.png, x.uncertainty.png, and x.view.png, which Labelme opens.
_COMPANION = re.compile(r"(.+)\.(?:overlay|uncertainty|view|prob-[^/]+)\.png")


def stem_of(mask_file: Path) -> str:
    """Return what a mask's name and those of its companions begin with."""
    for suffix in MASK_SUFFIXES:
        if mask_file.name.endswith(suffix):
            return mask_file.name[: -len(suffix)]
    return mask_file.stem


def companion(mask_file: Path, kind: str) -> Path:
    """Return the name of a mask's companion: `x.overlay.png`, `x.prob-<class>.png`."""
    return mask_file.with_name(f"{stem_of(mask_file)}.{kind}.png")


def is_companion(path: Path) -> bool:
    """Tell whether a file stands beside a mask and is none itself."""
    found = _COMPANION.fullmatch(path.name)
    return found is not None and any(
        path.with_name(f"{found[1]}{suffix}").exists() for suffix in MASK_SUFFIXES
    )
