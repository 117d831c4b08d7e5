"""Labels of many kinds, and conversions of them in shards."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import ConvertRequest
from emcfsys_engine.tools.convert.writing import Conversion
from tests.tools.drawn_masks import blobs, save_mask


def masks_at(folder: Path, number: int = 8) -> Path:
    """Write masks and images of several sizes.

    One cannot be read, one is named in bytes that are no text, two share a name, one has no image.
    """
    for n in range(number):
        ids = blobs(n, 40 + 9 * n)
        save_mask(folder / f"masks/{n % 2}/m{n}.png", ids)
        grey = np.random.default_rng(n).integers(0, 60_000, ids.shape).astype(np.uint16)
        (folder / f"images/{n % 2}").mkdir(parents=True, exist_ok=True)
        if n:
            tifffile.imwrite(folder / f"images/{n % 2}/m{n}.tif", grey)
    (folder / "masks/0/m4.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    (folder / "masks/0/m2.png").rename(folder / "masks/0" / os.fsdecode(b"m2\xff.png"))
    return folder / "masks"


def drawn_at(folder: Path, number: int = 6) -> Path:
    """Write Labelme files; one has a shape that cannot be drawn, one is none, two share a name."""
    (folder / "drawn").mkdir()
    for n in range(number):
        square = [[2, 2], [20 + n, 2], [20 + n, 30], [2, 30]]
        shapes = [{"label": f"c{n % 3}", "points": square, "shape_type": "polygon", "flags": {}}]
        if n == 2:
            shapes.append({"label": "c0", "points": [[1, 1]], "shape_type": "cuboid", "flags": {}})
        document = {
            "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"i{n}.png",
            "imageData": None, "imageHeight": 40, "imageWidth": 50,
        }  # fmt: skip
        (folder / f"drawn/i{n}.json").write_text(json.dumps(document))
    (folder / "drawn/i3.geojson").write_text((folder / "drawn/i3.json").read_text())
    (folder / "drawn/i5.json").write_text('{"version": "5.5.0", "shapes"')
    return folder / "drawn"


def run_of(source: Path, out: Path, to: str, shards: int = 3, **more: Any) -> Run:
    request = ConvertRequest(
        source=str(source),
        out=str(out),
        to=to,  # type: ignore[arg-type]
        shards=shards,
        **more,
    )
    return new_run(out / ".emcfsys", request)


def alike(found: Conversion | None, out: Path) -> str:
    return str(found).replace(str(out), "OUT")
