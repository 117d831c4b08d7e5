"""Hand a trained network to other programs: ONNX, TorchScript, a bioimage.io package.

Exported networks read what ours reads: an image that is normalised already (percentiles 0.5 and
99.5 of the whole image clipped, then zero mean and unit variance). ONNX and TorchScript files state
that in their metadata. bioimage.io packages carry it with them: percentiles in their preprocessing,
mean and variance in the network.

N images, C channels or classes, H and W pixels.
"""

import io
import json
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.own_files import write_new
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.learn.networks.rewrites import with_fixed_padding

NORMALISATION = (
    "clip each channel to percentiles 0.5 and 99.5 of the whole image, subtract mean, divide by std"
)
CENTRING = (
    "clip each channel to percentiles 0.5 and 99.5 of the whole image and scale these to 0 and 1; "
    "the network itself subtracts the mean, and divides by the std, of what it is given: give it "
    "whole images, not tiles"
)
OBJECTS = (
    "channel 0 is how far a pixel lies from the border of its object, 0 at the border and 1 in the"
    " middle, channel 1 how surely it is a border"
)
_TOLERANCE = 1e-3  # of logits, which are of the order of 1 to 10
OPSET = 20
_LARGEST_PX = 16384
_SEED = 0
EPSILON = 1e-6  # beside a standard deviation: a constant image becomes zeros


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """What a stranger must know to use the network."""

    name: str
    class_names: tuple[str, ...]
    description: str = "Segments electron micrographs."
    authors: tuple[str, ...] = ("unknown",)
    licence: str = "CC-BY-4.0"  # of the weights, as an SPDX id
    citation: str = ""
    citation_url: str = ""
    pixel_nm: float | None = None
    class_values: tuple[int, ...] = ()  # what each is in our masks: not its channel, always
    objects: dict[str, float] = field(default_factory=dict)  # by what we tell objects apart
    centres: bool = False  # the network subtracts mean and divides by deviation itself

    @property
    def normalisation(self) -> str:
        """What is done to an image before the network gets it, in words."""
        return CENTRING if self.centres else NORMALISATION


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written, and how far it is from the network it came from."""

    file: Path
    max_difference: float  # between its logits and ours, over every size that was tried
    any_size: bool  # False: it reads only images of `size_px`
    size_px: tuple[int, int]
    multiple_px: int  # height and width must be multiples of this; 1 where it pads by itself


def export_onnx(network: SegmentationNetwork, file: Path, metadata: ExportMetadata) -> ExportReport:
    """Write an ONNX file, run it with onnxruntime at several sizes, and tell the difference.

    Height and width stay free, in multiples of the network's, where its operations allow it.

    Raises: InputError if the packages are missing or the file does not give our numbers.
    """
    need("onnx", "onnxruntime", "onnxscript")
    plain, sizes = _prepared(network)
    fixed = with_fixed_padding(plain)
    for free in (True, False):
        try:
            made, difference = _made_onnx(plain, fixed, sizes, free=free, metadata=metadata)
        except (OSError, MemoryError):  # the next try would meet them, too
            raise
        except Exception as error:  # exporter and runtime fail in many ways; the next try is fixed
            made, difference = b"", float("inf")
            reason = (str(error) or repr(error)).splitlines()[0][:200]
        else:
            reason = f"its logits differ by {difference:.2g}"
        if difference <= _TOLERANCE:
            write_new(file, made)
            return ExportReport(
                file=file,
                max_difference=difference,
                any_size=free,
                size_px=sizes[0],
                multiple_px=network.encoder.multiple_px,
            )
    raise InputError(
        network.spec.backbone,
        f"it cannot be exported to ONNX ({reason})",
        "Export it as torchscript",
    )


def export_torchscript(
    network: SegmentationNetwork, file: Path, metadata: ExportMetadata
) -> ExportReport:
    """Write a TorchScript file, run it at several sizes, and tell the difference.

    Raises: InputError if the file does not give our numbers.
    """
    plain, sizes = _prepared(network)
    odd = (sizes[0][0] + 13, sizes[0][1] + 5)
    with quiet(), torch.no_grad():
        whole = exported(plain, metadata)
        traced = torch.jit.trace(whole, _image(network, sizes[0]), check_trace=False)
        extra = {"metadata.json": _metadata_json(network, metadata)}
        made = io.BytesIO()  # its name never stands for half of it, or for what differs
        torch.jit.save(traced, made, _extra_files=extra)
        made.seek(0)
        loaded = torch.jit.load(made)
    differences = [_difference(loaded, plain, metadata, size) for size in (*sizes, odd)]
    if differences[0] > _TOLERANCE:
        raise InputError(
            network.spec.backbone,
            f"its TorchScript differs by {differences[0]:.2g}",
            "Export it to onnx",
        )
    any_size = max(differences) <= _TOLERANCE
    write_new(file, made.getvalue())
    return ExportReport(
        file=file,
        max_difference=max(differences) if any_size else differences[0],
        any_size=any_size,
        size_px=sizes[0],
        multiple_px=1,
    )


class _Exported(nn.Module):
    """A network whose classes, and what it says of objects, are outputs of their own."""

    def __init__(self, network: SegmentationNetwork, *, centres: bool) -> None:
        super().__init__()
        self.network = network
        self.num_classes = network.spec.num_classes
        self.has_objects = bool(network.spec.num_planes)
        self.centres = centres

    def forward(self, x_NCHW: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits, or them with distance and border, 0 to 1.

        Shapes: N×1×H×W or N×3×H×W in, N×C×H×W and N×2×H×W out, of the weights' float type.
        """
        made_NCHW = self.network(_centred(x_NCHW) if self.centres else x_NCHW)
        if not self.has_objects:
            return made_NCHW
        return made_NCHW[:, : self.num_classes], made_NCHW[:, self.num_classes :].sigmoid()


def _centred(x_NCHW: Tensor) -> Tensor:
    around_NCHW = x_NCHW - x_NCHW.mean(dim=(2, 3), keepdim=True)
    deviation_NC11 = (around_NCHW * around_NCHW).mean(dim=(2, 3), keepdim=True).sqrt()
    return around_NCHW / (deviation_NC11 + EPSILON)


def exported(network: SegmentationNetwork, metadata: ExportMetadata) -> nn.Module:
    """Return what is exported: one output, or two where the network knows of objects."""
    if not network.spec.num_planes and not metadata.centres:
        return network
    return _Exported(network, centres=metadata.centres).eval()


def need(*packages: str) -> None:
    """Say which packages an export lacks.

    Raises: InputError if one is not installed.
    """
    absent = [each for each in packages if not _is_installed(each)]
    if absent:
        raise InputError(
            "export", f"{', '.join(absent)} not installed", 'pip install "emcfsys-tui[export]"'
        )


@contextmanager
def quiet() -> Generator[None]:
    """Keep back what torch's exporters warn of: every result is compared with ours anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _prepared(network: SegmentationNetwork) -> tuple[SegmentationNetwork, list[tuple[int, int]]]:
    """Return the network ready for tracing, and sizes to try it at; the first is the example."""
    plain = network.cpu().eval()
    step = network.encoder.multiple_px
    least = max(network.encoder.minimum_px, step)
    return plain, [(least + step, least + 2 * step), (least + 3 * step, least)]


def _made_onnx(
    plain: SegmentationNetwork,
    fixed: SegmentationNetwork,
    sizes: list[tuple[int, int]],
    *,
    free: bool,
    metadata: ExportMetadata,
) -> tuple[bytes, float]:
    """Return an ONNX file's bytes and how far its logits are from ours; nothing is left behind."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        _write_onnx(fixed, file, sizes, free=free, metadata=metadata)
        difference = _onnx_difference(plain, file, metadata, sizes if free else sizes[:1])
        return file.read_bytes(), difference


def _write_onnx(
    network: SegmentationNetwork,
    file: Path,
    sizes: list[tuple[int, int]],
    *,
    free: bool,
    metadata: ExportMetadata,
) -> None:
    import onnx

    step = network.encoder.multiple_px
    least = max(network.encoder.minimum_px // step, 1)
    shapes: dict[str, Any] | None = None
    if free:
        height = torch.export.Dim("height_steps", min=least, max=_LARGEST_PX // step)
        width = torch.export.Dim("width_steps", min=least, max=_LARGEST_PX // step)
        shapes = {"x_NCHW": {2: step * height, 3: step * width}}
    with quiet(), torch.no_grad():
        torch.onnx.export(
            exported(network, metadata),
            (_image(network, sizes[0]),),
            file,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=["image"],
            output_names=["logits", "objects"] if network.spec.num_planes else ["logits"],
            external_data=False,
            verbose=False,
        )
    model = onnx.load(file)
    onnx.helper.set_model_props(
        model,
        {"emcfsys": _metadata_json(network, metadata), "normalisation": metadata.normalisation},
    )
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _onnx_difference(
    network: SegmentationNetwork,
    file: Path,
    metadata: ExportMetadata,
    sizes: list[tuple[int, int]],
) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a failure comes back as an exception, once is enough
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(x_NCHW: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, session.run(None, {"image": x_NCHW.numpy()})))

    return max(_difference(run, network, metadata, size) for size in sizes)


def _difference(
    run: Any, network: SegmentationNetwork, metadata: ExportMetadata, size: tuple[int, int]
) -> float:
    x_NCHW = _image(network, size)
    with torch.no_grad():
        try:
            ours = exported(network, metadata)(x_NCHW)
            pairs = zip(_all(run(x_NCHW)), _all(ours), strict=True)
            return max(float((one - other).abs().max()) for one, other in pairs)
        except RuntimeError:
            return float("inf")  # it insists on the example's size


def _all(made: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (made,) if isinstance(made, Tensor) else made


def _image(network: SegmentationNetwork, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randn(1, network.spec.in_channels, *size, generator=generator)


def _metadata_json(network: SegmentationNetwork, metadata: ExportMetadata) -> str:
    content = {
        **asdict(metadata),
        "head": network.spec.head,
        "backbone": network.spec.backbone,
        "in_channels": network.spec.in_channels,
        "normalisation": metadata.normalisation,
        "output": "logits, one channel a class"
        + (f"; objects: {OBJECTS}" if network.spec.num_planes else ""),
    }
    return json.dumps(content, ensure_ascii=False)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of bioimageio.core, where even bioimageio is absent
        return False
