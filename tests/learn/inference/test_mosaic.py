"""One image that tasks share out in regions becomes the mask that one process makes of it."""

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.jobs.slurm.requeue import progress_of
from emcfsys_engine.learn.inference import mosaic as mosaics
from emcfsys_engine.learn.inference import shards as module
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.run.events import ImageDone, ImageFailed, RegionDone, RunFinished, WarningGiven
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.lines import line_of
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shard_lines import ShardProgress
from emcfsys_engine.run.shards import Shards
from tests.jobs.conftest import wait_for
from tests.learn.conftest import TINY, TINY_CARD, run_here
from tests.shards.made import here, listed
from tests.thorough import tries

__all__ = ["here"]  # a fixture
MOST = 1e-5  # of the pixels


def pixels_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return blobs of several sizes on a slope, so that a tile's place matters."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (-(-height // 16), -(-width // 16)), np.uint8)
    pixels = np.kron(coarse, np.ones((16, 16), np.uint8))[:height, :width]
    return pixels + rng.integers(0, 50, (height, width), np.uint8)


def write_zarr(folder: Path, pixels: np.ndarray, version: int = 3) -> None:
    """Write an OME-Zarr of Zarr 2, or a sharded one of Zarr 3, at 4 nm a pixel."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=version)  # type: ignore[call-overload]
    shards = (256, 256) if version == 3 else None
    array = group.create_array(
        "0", shape=pixels.shape, chunks=(128, 128), shards=shards, dtype=pixels.dtype
    )
    array[:] = pixels
    scale = {"type": "scale", "scale": [4.0, 4.0]}
    scales = [
        {
            "version": "0.5" if version == 3 else "0.4",
            "axes": [{"name": n, "type": "space", "unit": "nanometer"} for n in "yx"],
            "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
        }
    ]
    if version == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": scales}
    else:
        group.attrs["multiscales"] = scales


def write_mrc(file: Path, pixels: np.ndarray) -> None:
    header = np.zeros(256, "<i4")
    header[:4] = pixels.shape[1], pixels.shape[0], 1, 6  # unsigned 16 bits
    header[52] = int.from_bytes(b"MAP ", "little")
    header[53] = 0x4444
    file.write_bytes(header.tobytes() + pixels.astype("<u2").tobytes())


def write_image(folder: Path, pixels: np.ndarray, kind: str) -> Path:
    """Write an image of one of the kinds that can be large, and return its name."""
    suffix = {"zarr2": ".zarr", "zarr3": ".zarr", "mrc": ".mrc", "png": ".png"}
    image = folder / f"x{suffix.get(kind, '.tif')}"
    if kind.startswith("zarr"):
        write_zarr(image, pixels, int(kind[-1]))
    elif kind == "mrc":
        write_mrc(image, pixels)
    elif kind == "png":
        Image.fromarray(pixels).save(image)
    else:
        cut: dict[str, Any] = {"tile": (128, 128)} if kind == "bigtiff" else {"rowsperstrip": 16}
        tifffile.imwrite(image, pixels, bigtiff=kind == "bigtiff", compression="zlib", **cut)
    return image


def request_of(image: Path, model: Path, out: str, shards: int, **options: Any) -> PredictRequest:
    given = {"mask_format": "ome-zarr", "region_px": 256, "tile_px": 64, "threads": 1} | options
    return PredictRequest(
        model=str(model),
        inputs=(str(image),),
        out=str(image.parent / out),
        gpus=0,
        shards=shards,
        **given,
    )


def done_by(request: PredictRequest) -> Run:
    run = new_run(Path(request.out) / ".emcfsys", request)
    assert run_here(run) == 0, run.events()[-3:]
    return run


def mask_in(out: Path, name: str = "x.ome.zarr") -> np.ndarray:
    return np.asarray(read_micrograph(ImageRef(path=out / name)).pixels)


def differing(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float((one != other).mean())


def write_model(file: Path, instances: tuple[str, ...] = ()) -> Path:
    """Write a model of fixed weights that finds both classes, and where told so their objects."""
    torch.manual_seed(1)
    spec = msgspec.structs.replace(TINY, num_planes=2 if instances else 0)
    network = build_network(spec).eval()
    look = torch.from_numpy(pixels_of(256, 256)).float()[None, None]
    with torch.inference_mode():
        logits = network((look - look.mean()) / look.std())
        last = [one for one in network.modules() if isinstance(one, torch.nn.Conv2d)][-1]
        assert last.bias is not None
        assert last.out_channels == logits.shape[1]
        last.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    card = msgspec.structs.replace(TINY_CARD, network=spec, instances=instances)
    save_model(file, network, card)
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "x.ome.zarr"
    write_zarr(folder, pixels_of(700, 900))
    return folder


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "kind",
    ["zarr2", "zarr3", *(pytest.param(one, marks=pytest.mark.long) for one in ("bigtiff", "mrc"))],
)
def test_regions_make_the_mask_that_one_process_makes(
    tmp_path: Path, model: Path, kind: str
) -> None:
    pixels = pixels_of(700, 900)
    pixels[640:] = 0  # an info bar
    pixels[660:680, 20:300:3] = 255
    image = write_image(tmp_path, pixels, kind)
    alone = done_by(request_of(image, model, "alone", 0))
    shared = done_by(request_of(image, model, "shared", 3))
    one, many = mask_in(tmp_path / "alone"), mask_in(tmp_path / "shared")
    assert len(np.unique(one)) == 2
    assert differing(one, many) <= MOST
    regions = [event for event in shared.events() if isinstance(event, RegionDone)]
    assert len(regions) == regions[0].of == 12
    (told,) = (event for event in alone.events() if isinstance(event, ImageDone))
    (joined,) = (event for event in shared.events() if isinstance(event, ImageDone))
    assert told.shares["grain"] == pytest.approx((one[:640] == 7).mean(), abs=1e-6)
    assert joined.shares == pytest.approx(told.shares, abs=1e-6)
    assert joined.confidence == pytest.approx(told.confidence, abs=1e-5)
    assert (shared.folder / "shards").is_dir()
    assert not list(shared.folder.glob("shards/mosaic-*"))


@pytest.mark.usefixtures("here")
def test_objects_over_borders_of_regions_are_those_of_one_process(
    tmp_path: Path, image: Path
) -> None:
    model = write_model(tmp_path / "objects.safetensors", ("grain",))
    done_by(request_of(image, model, "alone", 0))
    done_by(request_of(image, model, "shared", 2))
    one, many = (
        np.asarray(zarr.open_group(tmp_path / out / "x.ome.zarr/labels/instances", mode="r")["0"])
        for out in ("alone", "shared")
    )
    assert one.max() > 20
    over_a_border = (many[255] == many[256]) & (many[255] > 0)
    assert over_a_border.any()
    assert differing(one, many) <= MOST


@pytest.mark.usefixtures("here")
def test_an_image_of_other_pixel_size_is_brought_to_the_models_in_regions_too(
    tmp_path: Path, model: Path, image: Path
) -> None:
    group = zarr.open_group(image, mode="r+")
    about: Any = dict(group.attrs["ome"])  # type: ignore[arg-type]
    about["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [2.6, 2.6]
    group.attrs["ome"] = about
    done_by(request_of(image, model, "plain", 0))
    done_by(request_of(image, model, "alone", 0, rescale=True))
    done_by(request_of(image, model, "shared", 3, rescale=True))
    assert differing(mask_in(tmp_path / "plain"), mask_in(tmp_path / "alone")) > 0.01
    assert differing(mask_in(tmp_path / "alone"), mask_in(tmp_path / "shared")) <= MOST


@pytest.mark.usefixtures("here")
def test_small_images_beside_a_mosaic_are_predicted_whole(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    write_zarr(tmp_path / "in/b.ome.zarr", pixels_of(300, 400))
    tifffile.imwrite(tmp_path / "in/a.tif", pixels_of(100, 120))
    run = done_by(request_of(tmp_path / "in", model, "out", 4))
    header = Shards(run).header()
    assert header is not None
    assert (header.num_images, header.num_items, header.format) == (2, 5, 2)
    assert progress_of(run) == 6  # a job that Slurm puts back got on by each of them
    (region, *_) = (event for event in run.events() if isinstance(event, RegionDone))
    assert line_of(region).startswith("region ") and line_of(region).endswith("b.ome.zarr")
    assert ShardProgress(run).text() == "4 of 4 tasks done, 5 of 5 images and regions"
    ends = [event for event in run.events() if isinstance(event, RunFinished)]
    assert (ends[-1].done, ends[-1].failed) == (2, 0)
    assert mask_in(tmp_path / "out", "a.ome.zarr").shape == (100, 120)
    assert mask_in(tmp_path / "out", "b.ome.zarr").shape == (300, 400)


@pytest.mark.usefixtures("here")
def test_regions_of_background_alone_are_as_good_as_any(tmp_path: Path, model: Path) -> None:
    pixels = pixels_of(700, 900)
    network, card = load_model(model)
    with torch.no_grad():
        last = [one for one in network.modules() if isinstance(one, torch.nn.Conv2d)][-1]
        assert last.bias is not None
        last.bias[0] += 100.0
    none = tmp_path / "none.safetensors"
    save_model(none, network, card)
    image = write_image(tmp_path, pixels, "zarr3")
    run = done_by(request_of(image, none, "out", 3))
    assert len([event for event in run.events() if isinstance(event, RegionDone)]) == 12
    assert not mask_in(tmp_path / "out").any()


@pytest.mark.usefixtures("here")
def test_what_keeps_an_image_in_one_task_is_said(tmp_path: Path, model: Path, image: Path) -> None:
    run = done_by(request_of(image, model, "out", 3, overlay=True))
    told = [event.message for event in run.events() if isinstance(event, WarningGiven)]
    assert any("one task predicts all of it, for --overlay" in words for words in told)
    assert (tmp_path / "out/x.overlay.png").is_file()
    assert not any(isinstance(event, RegionDone) for event in run.events())


def _begun(request: PredictRequest) -> Run:
    """Return a run whose list is written, and of which no shard was begun."""
    run = new_run(Path(request.out) / ".emcfsys", request)
    listed(run)
    return run


@pytest.mark.usefixtures("here")
def test_what_a_kill_left_of_a_region_is_not_trusted(
    tmp_path: Path, model: Path, image: Path
) -> None:
    run = _begun(request_of(image, model, "out", 3))
    header = Shards(run).header()
    assert header is not None
    place = mosaics.folder_of(header.mosaics[0], Shards(run).folder)
    torn = place / "0/c/1/1"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"half a chunk")
    (place / "0/c/1/1.0123.partial").write_bytes(b"less than half")
    assert run_here(run) == 0
    done_by(request_of(image, model, "alone", 0))
    assert differing(mask_in(tmp_path / "alone"), mask_in(tmp_path / "out")) <= MOST
    assert not list((tmp_path / "out/x.ome.zarr").rglob("*.partial"))


@pytest.mark.usefixtures("here")
def test_an_image_that_vanishes_is_named_once_and_done_when_it_is_back(
    tmp_path: Path, model: Path, image: Path
) -> None:
    run = _begun(request_of(image, model, "out", 3))
    image.rename(tmp_path / "away")
    assert run_here(run) == 1
    (failed,) = (event for event in run.events() if isinstance(event, ImageFailed))
    assert "12 of 12 regions failed" in failed.reason
    assert str(image) in failed.reason
    assert not (tmp_path / "out/x.ome.zarr").exists()
    (tmp_path / "away").rename(image)
    assert run_here(run) == 0
    assert mask_in(tmp_path / "out").shape == (700, 900)


@pytest.mark.usefixtures("here")
def test_an_image_that_changes_meanwhile_is_told(tmp_path: Path, model: Path, image: Path) -> None:
    run = _begun(request_of(image, model, "out", 3))
    shutil.rmtree(image)
    write_zarr(image, pixels_of(700, 900, seed=5))
    assert run_here(run) == 1
    (failed,) = (event for event in run.events() if isinstance(event, ImageFailed))
    assert "of the image as it was before" in failed.reason


@pytest.mark.usefixtures("here")
def test_the_list_of_another_image_is_refused(
    tmp_path: Path, model: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _begun(request_of(image, model, "out", 3))
    other = tmp_path / "y.ome.zarr"
    write_zarr(other, pixels_of(600, 600))
    theirs = new_run(tmp_path / "out/.emcfsys", request_of(other, model, "out", 3))
    shutil.copytree(run.folder / "shards", theirs.folder / "shards")
    assert run_here(theirs) != 0
    assert "was made for another request" in capsys.readouterr().err
    moved = Shards(run).file.read_text().replace(f"{tmp_path}/out/", f"{tmp_path}/tuo/")
    Shards(run).file.write_text(moved)
    assert run_here(run) != 0
    assert "which is not below" in capsys.readouterr().err
    assert not (tmp_path / "out/x.ome.zarr").exists()


@pytest.mark.usefixtures("here")
def test_a_kill_between_the_masks_name_and_its_telling_is_made_good(
    tmp_path: Path, model: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _begun(request_of(image, model, "out", 3))

    def killed(*_: object) -> ImageDone:
        raise KeyboardInterrupt

    with monkeypatch.context() as then:
        then.setattr(mosaics, "_told", killed)
        with pytest.raises(KeyboardInterrupt):
            run_here(run)
    assert (tmp_path / "out/x.ome.zarr").is_dir()
    assert run_here(run) == 0
    assert len([event for event in run.events() if isinstance(event, ImageDone)]) == 1


@pytest.mark.usefixtures("here")
def test_a_mask_that_a_person_changed_is_kept(tmp_path: Path, model: Path, image: Path) -> None:
    run = _begun(request_of(image, model, "out", 3))
    theirs = tmp_path / "out/x.ome.zarr"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    assert run_here(run) == 1
    assert (theirs / "notes.txt").read_text() == "mine"
    (failed,) = (event for event in run.events() if isinstance(event, ImageFailed))
    assert "was changed, or written by somebody else" in failed.reason


@pytest.mark.long
def test_four_tasks_killed_and_restarted_at_random_make_what_one_process_makes(
    tmp_path: Path, model: Path
) -> None:
    image = tmp_path / "x.ome.zarr"
    write_zarr(image, pixels_of(2048, 2048))
    done_by(request_of(image, model, "alone", 0))
    run = _begun(request_of(image, model, "out", 4, region_px=512))
    header = Shards(run).header()
    assert header is not None
    assert len(header.mosaics[0].regions) == 16
    draw, kills = random.Random(0), 0

    def start(shard: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", module.__name__, str(run.folder), str(shard)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def alive() -> list[int]:
        return [shard for shard, task in tasks.items() if task.poll() is None]

    tasks = {shard: start(shard) for shard in range(4)}
    try:
        while kills < tries(4, 8):
            before = _num_told(run)
            wait_for(lambda before=before: _num_told(run) > before or not alive())
            if not (living := alive()):
                break
            shard = draw.choice(living)
            tasks[shard].kill()
            tasks[shard].wait()
            tasks[shard] = start(shard)
            kills += 1
        assert [task.wait(300) for task in tasks.values()] == [0] * 4
    finally:
        for task in tasks.values():
            task.kill()
            task.wait()
    assert kills
    assert run_here(run) == 0
    assert differing(mask_in(tmp_path / "alone"), mask_in(tmp_path / "out")) <= MOST
    assert len([event for event in run.events() if isinstance(event, RegionDone)]) == 16
    (end,) = (event for event in run.events() if isinstance(event, RunFinished))
    assert (end.done, end.failed) == (1, 0)


def _num_told(run: Run) -> int:
    return sum(file.read_bytes().count(b'"became"') for file in run.folder.glob("shards/*.jsonl"))
