"""A large image of which tasks have predicted some regions, written without a network."""

from pathlib import Path

import msgspec
import numpy as np
import zarr
from safetensors.numpy import save

from emcfsys_engine.colours import colours_for
from emcfsys_engine.images.label_zarr import begin_labels, write_region
from emcfsys_engine.images.mosaic_view import folder_of
from emcfsys_engine.model_card import KEY, ModelCard, NetworkSpec
from emcfsys_engine.regions import Mosaic, Region
from emcfsys_engine.run.events import RegionDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import Lines, ShardBecame
from emcfsys_engine.run.shards import ShardItem, Shards

SIZE = (700, 900)
CLASSES = ("resin", "grain")


def pixels() -> np.ndarray:
    """Return the image: brighter from left to right."""
    return np.tile(np.linspace(10, 250, SIZE[1]).astype(np.uint8), (SIZE[0], 1))


def mask() -> np.ndarray:
    """Return its mask: stripes, 100 rows each."""
    return np.tile((np.arange(SIZE[0]) // 100 % 2).astype(np.uint8)[:, None], (1, SIZE[1]))


def write_card(file: Path) -> Path:
    """Write a model file that has a card and no weights."""
    card = ModelCard(
        network=NetworkSpec(head="unet", backbone="mobilenetv3_small_050", num_classes=2),
        classes=CLASSES,
        class_values=(0, 1),
        colours=colours_for(2),
        patch_px=64,
    )
    file.write_bytes(save({}, {"format": "pt", KEY: msgspec.json.encode(card).decode()}))
    return file


def made_mosaic(folder: Path) -> tuple[Run, Mosaic]:
    """Return a run whose list has one image in 12 regions of 256², and nothing done."""
    image = folder / "x.zarr"
    array = zarr.open_group(str(image), mode="w", zarr_format=3).create_array(
        "0", shape=SIZE, chunks=(128, 128), dtype="uint8"
    )
    array[:] = pixels()
    request = PredictRequest(
        model=str(write_card(folder / "model.safetensors")),
        inputs=(str(image),),
        out=str(folder / "out"),
        mask_format="ome-zarr",
        region_px=256,
        shards=2,
    )
    run = new_run(folder / "out/.emcfsys", request)
    mosaic = Mosaic(
        number=0,
        image=str(image),
        plane=None,
        mask=str(folder / "out/x.ome.zarr"),
        content="",
        size_HW=SIZE,
        cut_HW=(256, 256),
        chunk_px=256,
        pixel_nm=(4.0, 4.0),
        info_bar_rows=0,
        statistics=(0.0, 255.0, 128.0, 60.0),
        is_coloured=False,
        colours=(),
        tiles=(64, 64, 0.25, 0.25),
    )
    items = [
        ShardItem(number, str(image), None, mosaic.mask, -1, one.pixels, mosaic=0, region=one)
        for number, one in enumerate(mosaic.regions, 1)
    ]
    shards = Shards(run)
    shards.write(items, 2, mosaics=(mosaic,))
    place = folder_of(mosaic, shards.folder)
    begin_labels(place, "x", SIZE, (4.0, 4.0), cut_HW=mosaic.cut_HW, chunk_px=mosaic.chunk_px)
    return run, mosaic


def do(run: Run, mosaic: Mosaic, *regions: Region, shard: int = 0) -> None:
    """Write regions of the mask, and tell of them, as a task does."""
    shards = Shards(run)
    place = folder_of(mosaic, shards.folder)
    array = zarr.open_group(str(place), mode="r+")["0"]
    lines = Lines(shards.lines_file(shard))
    for one in regions:
        write_region(array, one, mask()[one.top : one.bottom, one.left : one.right])
        told = RegionDone(
            image=mosaic.image,
            region=(one.top, one.bottom, one.left, one.right),
            of=len(mosaic.regions),
            seconds=1.0,
        )
        lines.write(ShardBecame(number=1 + mosaic.regions.index(one), event=told))
    lines.close()
