"""Use a model file: one call for an array, one for a run over files.

C channels or classes, H and W pixels.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.events import Event, ImageDone, ImageFailed, WarningGiven
from emcfsys_engine.images.micrograph import ImageRef, Micrograph
from emcfsys_engine.images.normalise import Normaliser, to_grey
from emcfsys_engine.images.reader import find_images, read_micrograph
from emcfsys_engine.learn.device import autocast, choose_device, choose_precision
from emcfsys_engine.learn.ensemble import load_members, merged
from emcfsys_engine.learn.outputs import OutputNames, write_outputs
from emcfsys_engine.learn.pipeline import Failure, run_pipeline
from emcfsys_engine.learn.tiling import logit_bands
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run import PredictRequest


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the network made of one image.

    Shapes: mask is H×W uint8 with class values; probabilities C×H×W uint8 (255 = certain) or None.
    """

    mask: np.ndarray
    confidence: float  # mean probability of the chosen class
    shares: dict[str, float]  # area fraction of each class
    probabilities: np.ndarray | None = None


class Predictor:
    """A model file in use: `Predictor("model.safetensors")(array)` returns a mask.

    Several files are an ensemble: the mean of their probabilities (`Predictor.of`).
    Raises: ModelFileError for a file that cannot be used, or is not alike the first one.
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path],
        *,
        gpus: int | None = None,
        overlap: float = 0.25,
        tta: bool = False,
        tile_px: int | None = None,
        batch: int | None = None,
    ) -> None:
        files = [model] if isinstance(model, str | Path) else model
        networks, self.card = load_members([Path(file) for file in files])
        self.normaliser = Normaliser(**msgspec.structs.asdict(self.card.normaliser))
        self.device = choose_device(gpus)
        self.precision, _ = choose_precision(self.device)
        self._networks = [
            network.to(self.device).to(memory_format=torch.channels_last) for network in networks
        ]
        self._overlap = overlap
        self._tta = tta
        self.tile_px = tile_px or max(self.card.patch_px, 512)
        self.batch = batch or (16 if self.device.type == "cuda" else 4)

    @classmethod
    def of(cls, models: Sequence[str | Path], **options: Any) -> "Predictor":
        """Return one predictor for several model files, such as the folds of a cross-validation.

        Its probabilities are the mean of those that each model alone would give; with `tta` each
        member is averaged over the flips first. Options are those of `Predictor`.
        Raises: ModelFileError if classes, values, normalisation or pixel size differ.
        """
        return cls(models, **options)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return the mask of an image: class values, H×W uint8.

        Shapes: H×W or H×W×C, any numeric type.
        """
        return self.predict(pixels).mask

    def predict(
        self,
        pixels: np.ndarray,
        *,
        info_bar_rows: int = 0,
        scale: float = 1.0,
        probabilities: bool = False,
    ) -> Prediction:
        """Return mask and confidence of an image.

        `scale` enlarges the image for the network (its pixel size over the model's); the mask has
        the image's own size. Rows of the info bar are given the first class.
        Shapes: H×W or H×W×C, any numeric type.
        """
        image = self.prepare(pixels, info_bar_rows)
        return self.predict_prepared(
            image, info_bar_rows=info_bar_rows, scale=scale, probabilities=probabilities
        )

    def prepare(self, pixels: np.ndarray, info_bar_rows: int = 0) -> np.ndarray:
        """Return the image as the network wants it; safe to call in any thread.

        Shapes: H×W or H×W×C in, H×W×1 float32 out.
        Raises: InputError for an image without pixels.
        """
        grey = to_grey(pixels)
        if not grey.size:
            raise InputError("image", "has no pixels", "Leave it out")
        return self.normaliser.apply(grey, info_bar_rows)

    def predict_prepared(
        self,
        image: np.ndarray,
        *,
        info_bar_rows: int = 0,
        scale: float = 1.0,
        probabilities: bool = False,
    ) -> Prediction:
        """Return mask and confidence of an image that `prepare` made ready."""
        image_CHW = torch.from_numpy(image).movedim(-1, 0).to(self.device)
        height, width = image_CHW.shape[-2:]
        if scale != 1.0:
            size = [max(1, round(n * scale)) for n in (height, width)]
            image_NCHW = image_CHW[None]
            image_CHW = F.interpolate(image_NCHW, size=size, mode="bilinear", antialias=True)[0]
        gathered = _Gathered(self.card, image_CHW.shape[-2:], probabilities)
        with torch.inference_mode():
            for first, logits_CHW in self._bands(image_CHW):
                gathered.add(first, self.merged(logits_CHW))
        return gathered.finish((height, width), info_bar_rows)

    def _bands(self, image_CHW: Tensor) -> Iterator[tuple[int, Tensor]]:
        return logit_bands(
            self.forward,
            image_CHW,
            tile_px=self.tile_px,
            overlap=self._overlap,
            batch=self.batch,
            tta=self._tta,
        )

    def halve_batch(self) -> None:
        """Compute fewer tiles at a time from now on: the device ran out of memory."""
        self.batch = max(1, self.batch // 2)

    def forward(self, tiles_NCTT: Tensor) -> Tensor:
        """Return the logits of a batch of tiles, in the precision this device is fast at.

        Shapes: an ensemble gives M·C channels, member after member: see `merged`.
        """
        tiles_NCTT = tiles_NCTT.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            made = [network(tiles_NCTT) for network in self._networks]
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)

    def merged(self, logits_KHW: Tensor) -> Tensor:
        """Return the logits of the ensemble from those of its members; one member's are its own.

        Shapes: K = M·C in, C×H×W out.
        """
        return merged(logits_KHW, len(self._networks))


class _Gathered:
    """Bands of logits, turned at once into a mask: logits of a whole image never stay."""

    def __init__(self, card: ModelCard, size: torch.Size, probabilities: bool) -> None:
        self.card = card
        self.indices = np.empty(size, np.uint8)
        self.sure = 0.0
        self.probabilities: np.ndarray | None = None
        if probabilities:
            self.probabilities = np.empty((len(card.classes), *size), np.uint8)

    def add(self, first: int, logits_CHW: Tensor) -> None:
        shares_CHW = logits_CHW.softmax(dim=0)
        best = shares_CHW.max(dim=0)
        rows = slice(first, first + logits_CHW.shape[1])
        self.indices[rows] = best.indices.to(torch.uint8).cpu().numpy()
        self.sure += float(best.values.sum(dtype=torch.float64))
        if self.probabilities is not None:
            self.probabilities[:, rows] = (shares_CHW * 255).round().to(torch.uint8).cpu().numpy()

    def finish(self, size: tuple[int, int], info_bar_rows: int) -> Prediction:
        confidence = self.sure / max(1, self.indices.size)
        indices = _resized(self.indices, size)
        if info_bar_rows:
            indices[-info_bar_rows:] = 0
        counts = np.bincount(indices.ravel(), minlength=len(self.card.classes))
        values = np.asarray(self.card.class_values, np.uint8)
        probabilities = self.probabilities
        if probabilities is not None and probabilities.shape[1:] != size:
            probabilities = np.stack([_resized(plane, size, "bilinear") for plane in probabilities])
        return Prediction(
            mask=values[indices],
            confidence=confidence,
            shares={
                name: float(count) / indices.size
                for name, count in zip(self.card.classes, counts, strict=True)
            },
            probabilities=probabilities,
        )


def _resized(plane: np.ndarray, size: tuple[int, int], mode: str = "nearest-exact") -> np.ndarray:
    if plane.shape == size:
        return plane
    given = torch.from_numpy(plane)[None, None]
    if mode == "bilinear":
        given = given.float()
    made = F.interpolate(given, size=size, mode=mode)[0, 0]
    return made.round().to(torch.uint8).numpy()


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many images of a run were done, skipped because they were there, or failed."""

    done: int
    skipped: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class _Ready:
    micrograph: Micrograph
    image: np.ndarray
    started: float


def predict_files(
    request: PredictRequest,
    refs: list[ImageRef],
    predictor: Predictor,
    say: Callable[[Event], None],
    asked: Callable[[], str | None],
) -> Tally:
    """Predict image after image; one that fails is reported and the others go on."""
    names = OutputNames(Path(request.out), refs, request.inputs, request.mask_format)
    todo = [ref for ref in refs if request.force or not names.mask_of(ref).exists()]

    def read(ref: ImageRef) -> _Ready:
        started = time.monotonic()
        micrograph = read_micrograph(ref)
        image = predictor.prepare(micrograph.pixels, micrograph.info_bar_rows)
        return _Ready(micrograph=micrograph, image=image, started=started)

    def compute(ref: ImageRef, ready: _Ready) -> tuple[_Ready, Prediction]:
        prediction = predictor.predict_prepared(
            ready.image,
            info_bar_rows=ready.micrograph.info_bar_rows,
            scale=_scale(ready.micrograph, predictor.card, request.rescale, say),
            probabilities=request.probability,
        )
        return ready, prediction

    def write(ref: ImageRef, made: tuple[_Ready, Prediction]) -> ImageDone:
        ready, prediction = made
        mask_file = names.mask_of(ref)
        write_outputs(
            mask_file,
            ready.micrograph,
            prediction.mask,
            predictor.card,
            overlay=request.overlay,
            probabilities=prediction.probabilities,
        )
        return ImageDone(
            image=str(ref),
            mask=str(mask_file),
            seconds=time.monotonic() - ready.started,
            shares=prediction.shares,
            confidence=prediction.confidence,
        )

    done = failed = 0
    until_asked = itertools.takewhile(lambda _: asked() is None, todo)
    for ref, result in run_pipeline(until_asked, read, compute, write, (EmcfError,)):
        if isinstance(result, Failure):
            say(ImageFailed(image=str(ref), reason=str(result.error)))
            failed += 1
        else:
            say(result)
            done += 1
    return Tally(done=done, skipped=len(refs) - len(todo), failed=failed)


def find_inputs(request: PredictRequest) -> list[ImageRef]:
    """Return the images of all inputs, without what lies in the output folder.

    Raises: InputError if there is none.
    """
    out = Path(request.out)
    found: dict[ImageRef, None] = {}
    for place in request.inputs:
        for ref in find_images(place, Path("/")):
            if out not in ref.path.parents:
                found[ref] = None
    if not found:
        raise InputError(
            ", ".join(request.inputs), "holds no micrographs", "Name images or their folder"
        )
    return list(found)


def _scale(
    micrograph: Micrograph, card: ModelCard, rescale: bool, say: Callable[[Event], None]
) -> float:
    """Return by what the image must be enlarged to have the model's pixel size, if asked."""
    if card.pixel_nm is None or micrograph.pixel_nm is None:
        return 1.0
    own = (micrograph.pixel_nm[0] * micrograph.pixel_nm[1]) ** 0.5
    factor = own / card.pixel_nm
    if abs(factor - 1) < 0.1:
        return 1.0
    if rescale:
        return factor
    message = (
        f"{micrograph.source}: its pixels are {own:.4g} nm, the model was trained at "
        f"{card.pixel_nm:.4g} nm. Use --rescale to bring them together"
    )
    say(WarningGiven(message=message))
    return 1.0
