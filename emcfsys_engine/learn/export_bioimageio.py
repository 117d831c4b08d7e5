"""Write a bioimage.io package (model format 0.5) that other programs can check and run.

N images, C channels or classes, H and W pixels.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.normalise import RGB
from emcfsys_engine.images.own_files import put
from emcfsys_engine.learn.export import (
    EPSILON,
    OBJECTS,
    OPSET,
    ExportMetadata,
    ExportReport,
    export_onnx,
    export_torchscript,
    exported,
    need,
    quiet,
)
from emcfsys_engine.learn.networks.network import SegmentationNetwork

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
_TEST_EDGE_PX = 128
_SHORTEST_NAME = 5


def export_bioimageio(
    network: SegmentationNetwork,
    file: Path,
    metadata: ExportMetadata,
    *,
    example_HW: NDArray[np.float32] | None = None,
    with_onnx: bool = True,
) -> ExportReport:
    """Write a package with TorchScript (and ONNX) weights, normalisation and test images inside.

    The example is a micrograph as it is read, not normalised; without one, noise is used. The
    package is validated and run by bioimageio.core before it gets its name.

    Shapes: the test image is H×W float32.
    Raises: InputError if bioimageio.core is missing or the package does not pass its test.
    """
    need("bioimageio.core", "bioimageio.spec")
    with quiet(), tempfile.TemporaryDirectory(dir=file.parent) as name:
        folder = Path(name)
        # bioimageio.core measures a mean on the image as it was read, whatever comes before it.
        metadata = replace(metadata, centres=True)
        reports = [export_torchscript(network, folder / "weights.pt", metadata)]
        if with_onnx:
            reports.append(export_onnx(network, folder / "weights.onnx", metadata))
        _write_test_tensors(network, folder, metadata, example_HW)
        _write_documentation(
            folder / "README.md", metadata, has_objects=bool(network.spec.num_planes)
        )
        package = folder / file.name
        try:
            _save_package(_description(network, folder, metadata, with_onnx), package)
        except ValueError as error:  # pydantic's: a name too short, an unknown licence …
            reason = " ".join(str(error).split())[:200]
            raise InputError(file, f"the format does not allow it ({reason})") from error
        _check(package, file)
        put(package, file, may_replace=False)
    return ExportReport(
        file=file,
        max_difference=max(each.max_difference for each in reports),
        any_size=all(each.any_size for each in reports),
        size_px=reports[-1].size_px,
        multiple_px=network.encoder.multiple_px,
    )


def normalised(image_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the image as `predict` gives it to the network.

    Shapes: N×C×H×W float32 in and out.
    Units: any intensities in, zero mean and unit variance out, over a whole image and channel.
    """
    axes = (2, 3)
    low = np.percentile(image_NCHW, LOW_PERCENTILE, axis=axes, keepdims=True)
    high = np.percentile(image_NCHW, HIGH_PERCENTILE, axis=axes, keepdims=True)
    scaled = np.clip((image_NCHW - low) / (high - low + EPSILON), 0, 1)
    centred = scaled - scaled.mean(axis=axes, keepdims=True)
    return (centred / (scaled.std(axis=axes, keepdims=True) + EPSILON)).astype(np.float32)


def _write_test_tensors(
    network: SegmentationNetwork,
    folder: Path,
    metadata: ExportMetadata,
    example_HW: NDArray[np.float32] | None,
) -> None:
    edge = _test_edge(network)
    image_NCHW = _test_image(network, edge, example_HW)
    with torch.no_grad():
        plain = exported(network, replace(metadata, centres=False))  # as `predict` computes
        made = plain(torch.from_numpy(normalised(image_NCHW)))
    logits_NCHW, *objects = made if isinstance(made, tuple) else (made,)
    np.save(folder / "test-input.npy", image_NCHW)
    np.save(folder / "test-output.npy", logits_NCHW.softmax(dim=1).numpy())
    for objects_N2HW in objects:
        np.save(folder / "test-objects.npy", objects_N2HW.numpy())


def _test_edge(network: SegmentationNetwork) -> int:
    step = network.encoder.multiple_px
    return -(-max(_TEST_EDGE_PX, network.encoder.minimum_px) // step) * step


def _test_image(
    network: SegmentationNetwork, edge: int, example_HW: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    shape = (1, network.spec.in_channels, edge, edge)
    if example_HW is None:
        return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    rows, columns = (np.arange(edge) % length for length in example_HW.shape)
    tile_HW = example_HW[np.ix_(rows, columns)].astype(np.float32)
    return np.broadcast_to(tile_HW, shape).copy()


def _write_documentation(file: Path, metadata: ExportMetadata, *, has_objects: bool) -> None:
    objects = ""
    if has_objects:
        objects = f"A second output tells objects apart: {OBJECTS}."
        objects += f" {_parting(metadata.objects)}\n\n"
    values = metadata.class_values or range(len(metadata.class_names))
    classes = "\n".join(
        f"- channel {i}: {name}, {value} in masks of EMCFsys"
        for i, (name, value) in enumerate(zip(metadata.class_names, values, strict=True))
    )
    pixel = f"Trained at {metadata.pixel_nm:g} nm a pixel.\n\n" if metadata.pixel_nm else ""
    file.write_text(
        f"# {metadata.name}\n\n{metadata.description}\n\n{pixel}"
        f"Normalisation: {metadata.normalisation}.\n\n"
        f"The output is a probability for each class:\n\n{classes}\n\n{objects}# Validation\n\n"
        "Compare its masks with hand-drawn ones of your own micrographs before you rely on it.\n",
        encoding="utf-8",
    )


def _parting(settings: Mapping[str, float]) -> str:
    """Say how objects are made of the second output, as `predict` makes them."""
    if not settings:
        return ""
    seed, neck, least = (settings[name] for name in ("seed", "neck", "min_px"))
    return (
        "EMCFsys parts each class by watershed of distance x (1 - border), weighted by 1, 2, 1 "
        "along both axes: each pixel leads to the highest of its class around it; two hills are "
        f"one object where the lower's top is below {seed:g}, or the pass between them above "
        f"{neck:g} times that top; what has fewer than {least:g} pixels is part of what it "
        "touches, or no object."
    )


def _description(
    network: SegmentationNetwork, folder: Path, metadata: ExportMetadata, with_onnx: bool
) -> Any:
    from bioimageio.spec.common import HttpUrl
    from bioimageio.spec.model import v0_5 as spec

    onnx = (
        spec.OnnxWeightsDescr(source=folder / "weights.onnx", opset_version=OPSET)
        if with_onnx
        else None
    )
    url = HttpUrl(metadata.citation_url) if metadata.citation_url else None
    cite = metadata.citation or f"{metadata.name}, trained with EMCFsys"
    return spec.ModelDescr(
        name=_title(metadata.name),
        description=metadata.description,
        authors=[spec.Author(name=each) for each in metadata.authors],
        cite=[spec.CiteEntry(text=cite, url=url)] if url else [],
        license=spec.LicenseId(metadata.licence),
        documentation=spec.FileDescr(source=folder / "README.md"),
        tags=["electron-microscopy", "semantic-segmentation", network.spec.head],
        inputs=[_input(network, folder)],
        outputs=[
            _output(folder, metadata),
            *([_objects_output(folder)] if network.spec.num_planes else []),
        ],
        weights=spec.WeightsDescr(
            torchscript=spec.TorchscriptWeightsDescr(
                source=folder / "weights.pt",
                pytorch_version=spec.Version(torch.__version__.partition("+")[0]),
            ),
            onnx=onnx,
        ),
    )


def _input(network: SegmentationNetwork, folder: Path) -> Any:
    from bioimageio.spec.model import v0_5 as spec

    step = network.encoder.multiple_px
    size = spec.ParameterizedSize(min=max(network.encoder.minimum_px, step), step=step)
    space = [spec.AxisId("y"), spec.AxisId("x")]
    number = network.spec.in_channels
    names = ["red", "green", "blue"] if number == RGB else [f"channel{i}" for i in range(number)]
    return spec.InputTensorDescr(
        id=spec.TensorId("image"),
        axes=[
            spec.BatchAxis(size=1),
            spec.ChannelAxis(channel_names=names),
            spec.SpaceInputAxis(id=space[0], size=size),
            spec.SpaceInputAxis(id=space[1], size=size),
        ],
        test_tensor=spec.FileDescr(source=folder / "test-input.npy"),
        preprocessing=[
            spec.ScaleRangeDescr(
                kwargs=spec.ScaleRangeKwargs(
                    axes=space,
                    min_percentile=LOW_PERCENTILE,
                    max_percentile=HIGH_PERCENTILE,
                    eps=EPSILON,
                )
            ),
            spec.ClipDescr(kwargs=spec.ClipKwargs(min=0.0, max=1.0)),
        ],
    )


def _axes(names: Sequence[str]) -> list[Any]:
    """Return the axes of an output that is as large as the image."""
    from bioimageio.spec.model import v0_5 as spec

    image = spec.TensorId("image")
    return [
        spec.BatchAxis(size=1),
        spec.ChannelAxis(channel_names=list(names)),
        *(
            spec.SpaceOutputAxis(
                id=spec.AxisId(axis),
                size=spec.SizeReference(tensor_id=image, axis_id=spec.AxisId(axis)),
            )
            for axis in "yx"
        ),
    ]


def _objects_output(folder: Path) -> Any:
    from bioimageio.spec.model import v0_5 as spec

    return spec.OutputTensorDescr(
        id=spec.TensorId("objects"),
        description="Of objects: distance from the border, and border.",
        axes=_axes(["distance", "border"]),
        test_tensor=spec.FileDescr(source=folder / "test-objects.npy"),
    )


def _output(folder: Path, metadata: ExportMetadata) -> Any:
    from bioimageio.spec.model import v0_5 as spec

    return spec.OutputTensorDescr(
        id=spec.TensorId("probabilities"),
        axes=_axes(channel_names(metadata.class_names)),
        test_tensor=spec.FileDescr(source=folder / "test-output.npy"),
        postprocessing=[spec.SoftmaxDescr(kwargs=spec.SoftmaxKwargs(axis=spec.AxisId("channel")))],
    )


def _title(name: str) -> str:
    """Return the model's name as the format wants it: of five characters at least."""
    return name if len(name) >= _SHORTEST_NAME else f"{name} segmentation"


def channel_names(classes: Sequence[str]) -> list[str]:
    """Return the classes' names as the format wants them; alike ones get their channel's number."""
    names = [_identifier(name) for name in classes]
    return [f"{n}_{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]


def _identifier(name: str) -> str:
    """Return the class name as the format wants it: letters, digits and underscores."""
    cleaned = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)
    return cleaned if cleaned and not cleaned[0].isdigit() else f"class_{cleaned}"


def _save_package(description: Any, package: Path) -> None:
    from bioimageio.spec import save_bioimageio_package

    save_bioimageio_package(description, output_path=package)


def _check(package: Path, file: Path) -> None:
    """Let bioimageio.core validate the package and run it on its test images."""
    from bioimageio.core import test_model

    summary = test_model(package)
    if summary.status != "passed":  # "valid-format": it gives other numbers, or does not run
        faults = [error.msg for detail in summary.details for error in detail.errors]
        first = faults[0].splitlines()[0] if faults else "no reason given"
        raise InputError(file, f"bioimageio.core refuses the package ({first})", "Export to onnx")
