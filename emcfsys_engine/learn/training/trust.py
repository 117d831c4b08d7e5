"""Learn when a model fails: its own validation images, made worse, against their truth.

H and W pixels, P cells of F features, K axes, C classes, R rows (trials: an image as it is or made
worse) of S signals.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import scipy  # its parts are loaded when they are named
import torch

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.images.normalise import find_info_bar
from emcfsys_engine.learn.inference.bands import Prediction
from emcfsys_engine.learn.inference.evidence import AXES, EVERY_PX, Raw
from emcfsys_engine.learn.inference.expected import UNKNOWN, odds, resemblance, signals
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.training.dataset import Dataset, TrainingItem
from emcfsys_engine.learn.training.degradations import (
    DEGRADATIONS,
    Degradation,
    Worse,
    rounds,
)
from emcfsys_engine.learn.training.setup import (
    LEAST_TRUST_IMAGES,
    LEAST_TRUST_S,
    MOST_TRUST_S,
    TrainingSetup,
)
from emcfsys_engine.model_card import Trust, read_card
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.run.events import TrustLearned, WarningGiven

_MOST_IMAGES, _FEW_IMAGES, _MOST_TRAIN = 8, 3, 24
_MOST_PX = 768  # of a side: the middle of larger images is looked at
_LEAST_PX = 256  # the same, where time is short
_MOST_CELLS = 256
_LEAST_CELLS = 8
_CORNERS = ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0))  # down, across
_WIDER = 1.3  # times the part that is shown: in a corner much is new then
_LEAST_ROWS = 12
_LEAST_PREDICTIONS = (_FEW_IMAGES + _LEAST_ROWS) * (_LEAST_PX / _MOST_PX) ** 2  # of whole images
_PLACES = 1.5  # what a deviation of the place among the training images weighs less
_REACHES = (2.0, 3.0, 4.5, 7.0, 10.0, 15.0)
_NOISES = (0.01, 0.03, 0.1)
_COVERED = 0.9
_DIGITS = 5
_LEAST_SCALE = 1e-4
_TEMPERATURES = (0.2, 8.0)


@dataclass(frozen=True, kw_only=True)
class TrustRow:
    """One image as it was shown, what was seen of it, and how good its mask truly is.

    Shapes: signals S; IoUs 1 + C, the mean first, NaN where a class is absent; both float64.
    """

    image: int
    kind: str  # of damage; empty: none
    signals: np.ndarray
    ious: np.ndarray


class ShownPart(NamedTuple):
    """A part of a validation image: which one, H×W×C float32, and its labels, H×W uint8."""

    image: int
    pixels: np.ndarray
    labels: np.ndarray


class CannotTell(Exception):
    """Why nothing can be learned of how good masks are."""


def keep_trust(setup: TrainingSetup, seconds: float) -> None:
    """Learn when the models of a training fail, and keep that in their files, the best first.

    The final one has the same where it is the same, else what it can learn in the time that is
    left. Where nothing can be learned, file and event say why.
    """
    began, files = time.monotonic(), [setup.run.best_model, setup.run.final_model]
    if not files[0].exists():
        return
    trust, why = _learned(setup, files[0], min(seconds, MOST_TRUST_S))
    not_kept = _keep(files[0], trust, why)
    told = TrustLearned(why_not=why or not_kept, seconds=time.monotonic() - began)
    if trust is not None and not not_kept:
        told = msgspec.structs.replace(told, images=trust.num_images, trials=len(trust.trials))
    setup.emit(told)
    if not files[1].exists():
        return
    if trust is not None and len({read_card(file).weights_digest for file in files}) > 1:
        left_s = seconds - (time.monotonic() - began)
        trust, why = None, "the time was enough for the best model of its training alone"
        if left_s > LEAST_TRUST_S:
            trust, why = _learned(setup, files[1], left_s)
    if not_kept := _keep(files[1], trust, why):
        setup.emit(WarningGiven(message=f"final model: {not_kept}"))


def _learned(setup: TrainingSetup, file: Path, seconds: float) -> tuple[Trust | None, str]:
    """Return what a model learned, or why it learned nothing."""
    ends = time.monotonic() + seconds
    try:
        predictor = Predictor(
            file,
            gpus=0 if setup.plan.device == "cpu" else None,
            overlap=setup.project.inference.overlap,
            tile_px=setup.plan.tile_px,
        )
        left_s, seed = ends - time.monotonic(), setup.project.project.seed
        return learn_trust(predictor, setup.train, setup.val, seed=seed, seconds=left_s), ""
    except CannotTell as error:
        return None, str(error)
    except (OSError, RuntimeError, MemoryError, EmcfError, np.linalg.LinAlgError) as error:
        return None, str(error).partition("\n")[0]


def _keep(file: Path, trust: Trust | None, why_not: str) -> str:
    """Write it into the model's file; return why that stays as it is, where it does."""
    try:
        network, card = load_model(file)
        save_model(file, network, msgspec.structs.replace(card, trust=trust, no_trust=why_not))
    except (OSError, EmcfError) as error:
        return str(error).partition("\n")[0]
    return ""


def learn_trust(
    predictor: Predictor, train: Dataset, val: Dataset, *, seed: int, seconds: float
) -> Trust:
    """Return by what the predictor's model tells how good a mask is; about `seconds` are spent.

    Raises: CannotTell where too few images are labelled, or too little time is left.
    """
    ends = time.monotonic() + seconds
    labelled = [n for n in range(len(val)) if bool((val[n].labels != UNLABELLED).any())]
    if len(labelled) < LEAST_TRUST_IMAGES:
        raise CannotTell(
            f"{len(labelled)} labelled validation images, it takes {LEAST_TRUST_IMAGES}"
        )
    cells_PF, image_s = _cells_of(predictor, train, seed, ends - 0.75 * seconds)
    affordable = (ends - time.monotonic()) / image_s
    if affordable < _LEAST_PREDICTIONS:
        raise CannotTell(f"the time was not enough for {_LEAST_ROWS} trials")
    if len(cells_PF) < _LEAST_CELLS:
        what = f"{len(cells_PF)} places of the training images to compare with"
        raise CannotTell(f"{what}, it takes {_LEAST_CELLS}")
    number, side_px = _affordable(affordable)
    shown = _shown(val, _spread(labelled, number), number, side_px)
    temperatures = _temperatures(predictor, shown)
    trust = _axes_of(cells_PF, temperatures, seed)
    rows = list(_rows(predictor, trust, shown, seed, ends))
    return fitted(trust, rows)


def _affordable(predictions: float) -> tuple[int, int]:
    """Return how many images are shown, and how large, for so many predictions of whole ones.

    Each image is predicted twice as it is, and each kind of damage once at least.
    """
    a_kind = 2 + len(DEGRADATIONS)
    number = int(min(_MOST_IMAGES, max(_FEW_IMAGES, predictions / (1.3 * a_kind))))
    share = min(1.0, max(0.0, predictions) / (number * a_kind))
    return number, max(_LEAST_PX, round(_MOST_PX * math.sqrt(share)))


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """Return so many of the numbers, evenly spread."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[int(n)] for n in np.linspace(0, len(numbers) - 1, most).round()]


def _shown(val: Dataset, images: Sequence[int], number: int, side_px: int) -> list[ShownPart]:
    """Return the middle of each image; of few large ones also corners, until there are so many."""
    made, large = list[ShownPart](), list[int]()
    for n in images:
        item = val[n]
        made.append(ShownPart(n, *_window(item, side_px)))
        if min(item.labels.shape) >= _WIDER * side_px:
            large.append(n)
    corners = [(place, n) for place in _CORNERS for n in large]
    for place, n in corners[: max(0, number - len(made))]:
        made.append(ShownPart(n, *_window(val[n], side_px, place)))
    return made


def _window(
    item: TrainingItem, most_px: int = _MOST_PX, place: tuple[float, float] = (0.5, 0.5)
) -> tuple[np.ndarray, np.ndarray]:
    """Return a part of an image without its info bar: H×W×C float32 and its labels.

    Grey values are 0 to 1 between the clip's ends, or 0 to 1 for -3 to 3 where they are normalised.
    `place`: from 0 at the top and left to 1; the middle if not given.
    """
    pixels, labels = item.pixels, item.labels
    bar = find_info_bar(pixels) if pixels.dtype.kind == "u" else 0
    height, width = pixels.shape[0] - bar, pixels.shape[1]
    top, left = (
        int(max(0, side - most_px) * part)
        for side, part in zip((height, width), place, strict=True)
    )
    cut = np.s_[top : min(height, top + most_px), left : left + most_px]
    made = np.empty(pixels[cut].shape, np.float32)
    for channel in range(pixels.shape[2]):
        low, high = -3.0, 3.0
        if pixels.dtype.kind == "u":
            known = item.statistics[min(channel, len(item.statistics) - 1)]
            low, high = known[0], max(known[1], known[0] + 1e-6)
        made[..., channel] = (pixels[cut][..., channel] - low) / (high - low)
    return made, labels[cut]


def _cells_of(
    predictor: Predictor, train: Dataset, seed: int, ends: float
) -> tuple[np.ndarray, float]:
    """Return the features of cells of training images, and how long one takes at its quickest.

    Shapes: P×F float32.
    """
    quickest = math.inf
    order = np.random.default_rng(seed).permutation(len(train))[:_MOST_TRAIN]
    raw = predictor.evidence.raw = Raw()
    try:
        for number, index in enumerate(order):
            if number and time.monotonic() > ends:
                break
            image = _as_given(_window(train[int(index)])[0])
            began = time.monotonic()
            predictor.predict(image)
            quickest = min(quickest, time.monotonic() - began)
            raw.logits.clear()
    finally:
        predictor.evidence.raw = None
    cells_PF = torch.cat([one for one in raw.cells if len(one)]).cpu().numpy()
    return cells_PF, max(quickest, 1e-6)


def _as_given(image: np.ndarray) -> np.ndarray:
    """Return an image as `predict` takes it."""
    return image[..., 0] if image.shape[2] == 1 else image


def _temperatures(predictor: Predictor, shown: Sequence[ShownPart]) -> tuple[float, ...]:
    """Return by what logits are divided where a class is the likeliest: the likeliest for truth.

    Source: Guo et al. 2017 (arXiv:1706.04599), for the pixels of each predicted class.
    """
    logits, truths = list[np.ndarray](), list[np.ndarray]()
    for _, image, labels in shown:
        raw = predictor.evidence.raw = Raw()
        try:
            predictor.predict(_as_given(image))
        finally:
            predictor.evidence.raw = None
        for first, rows_ChW in raw.logits:
            rows_ChW = rows_ChW.float().cpu().numpy()
            height = rows_ChW.shape[1]
            truth_hW = labels[first::EVERY_PX, ::EVERY_PX][:height]
            known = truth_hW != UNLABELLED
            logits.append(rows_ChW[:, known].T)
            truths.append(truth_hW[known])
    num_classes = len(predictor.card.classes)
    logits_NC, truth_N = np.concatenate(logits)[:, :num_classes], np.concatenate(truths)
    best_N = logits_NC.argmax(axis=1)
    return tuple(
        _temperature(logits_NC[best_N == number], truth_N[best_N == number])
        for number in range(num_classes)
    )


def _temperature(logits_NC: np.ndarray, truth_N: np.ndarray) -> float:
    if not len(truth_N):
        return 1.0
    step = max(1, len(truth_N) // 20_000)
    shifted_NC = logits_NC[::step] - logits_NC[::step].max(axis=1, keepdims=True)
    own_N = shifted_NC[np.arange(len(shifted_NC)), truth_N[::step]]

    def surprise(log_temperature: float) -> float:
        cold = math.exp(-log_temperature)
        return float(np.mean(np.log(np.exp(shifted_NC * cold).sum(axis=1)) - own_N * cold))

    low, high = map(math.log, _TEMPERATURES)
    found = scipy.optimize.minimize_scalar(surprise, bounds=(low, high), method="bounded")
    return round(math.exp(float(found.x)), _DIGITS)


def _axes_of(cells_PF: np.ndarray, temperatures: tuple[float, ...], seed: int) -> Trust:
    """Return the PCA of the training images' cells, and a sample of them."""
    centre_F = cells_PF.mean(axis=0)
    scale_F = np.maximum(cells_PF.std(axis=0), _LEAST_SCALE)
    scaled_PF = (cells_PF - centre_F) / scale_F
    axes = max(1, min(AXES, len(cells_PF) // 4, cells_PF.shape[1]))
    _, sizes, basis_KF = np.linalg.svd(scaled_PF, full_matrices=False)
    basis_KF = basis_KF[:axes]
    spread_K = np.maximum(sizes[:axes] / math.sqrt(len(cells_PF)), _LEAST_SCALE)
    along_PK = scaled_PF @ basis_KF.T
    off_P = np.maximum(np.square(scaled_PF).sum(1) - np.square(along_PK).sum(1), 0)
    white_PK = along_PK / spread_K
    kept = np.random.default_rng(seed).permutation(len(white_PK))[:_MOST_CELLS]
    return Trust(
        temperatures=temperatures,
        centre=_numbers(centre_F),
        scale=_numbers(scale_F),
        basis=tuple(_numbers(row) for row in basis_KF),
        spread=_numbers(spread_K),
        residual=max(float(np.sqrt(off_P.mean())), 0.05 * math.sqrt(cells_PF.shape[1])),
        sample=tuple(_numbers(row) for row in white_PK[kept]),
    )


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)


def _rows(
    predictor: Predictor,
    trust: Trust,
    shown: Sequence[ShownPart],
    seed: int,
    ends: float,
) -> Iterator[TrustRow]:
    """Show the images as they are, then made worse in each way, until the time is over."""
    predictor.take_trusts((trust,))
    for one in shown:
        yield from _row(predictor, one.image, "", one.pixels, one.labels)
    for turn, damage, strength, number in _order(len(shown)):
        if time.monotonic() > ends:
            return
        one = shown[number]
        rng = np.random.default_rng((seed, turn, number))
        made, values = damaged(damage.apply, one.pixels, one.labels, strength, rng)
        yield from _row(predictor, one.image, damage.kind, made, values)


def _order(num_images: int) -> Iterator[tuple[int, Degradation, float, int]]:
    """Yield turn, damage, strength and image: of any beginning all kinds are about as often."""
    turns = [(turn, *one) for turn, one in enumerate(rounds())]
    for first in range(0, len(turns), len(DEGRADATIONS)):
        for shift in range(num_images):
            for turn, damage, strength in turns[first : first + len(DEGRADATIONS)]:
                yield turn, damage, strength, (turn + shift) % num_images


def damaged(
    apply: Worse,
    image: np.ndarray,
    labels: np.ndarray,
    strength: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, channel by channel, and its labels made worse.

    Shapes: H×W×C float32 and H×W uint8 in; the same out, or less of both where it gets smaller.
    """
    state = rng.bit_generator.state
    planes, values = list[np.ndarray](), labels
    for channel in range(image.shape[2]):
        rng.bit_generator.state = state  # the same stripes in every colour
        plane, values = apply(image[..., channel], labels, strength, rng)
        planes.append(plane)
    return np.stack(planes, axis=-1), values


def _row(
    predictor: Predictor, number: int, kind: str, image: np.ndarray, labels: np.ndarray
) -> Iterator[TrustRow]:
    """Yield one row, where there is anything to compare."""
    if min(image.shape[:2]) < 1 or not np.isfinite(image).any():
        return
    made = predictor.predict(_as_given(image))
    found = None if made.evidence is None else signals(made.evidence[0])
    ious = true_ious(made, labels, predictor.card.class_values)
    if found is not None and math.isfinite(ious[0]):
        yield TrustRow(image=number, kind=kind, signals=found, ious=ious)


def true_ious(made: Prediction, labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return the mean IoU of classes that are in truth or mask, then each; NaN: it is in neither.

    Shapes: labels are H×W uint8 class indices, 255 where there is none; the result 1 + C float64.
    """
    known = labels != UNLABELLED
    mask, truth = made.mask[known], labels[known]
    each = np.full(len(values), np.nan)
    for number, value in enumerate(values):
        one, other = mask == value, truth == number
        union = int((one | other).sum())
        if union:
            each[number] = (one & other).sum() / union
    mean = float(np.nanmean(each)) if np.isfinite(each).any() else math.nan
    return np.array([mean, *each])


def fitted(trust: Trust, rows: Sequence[TrustRow]) -> Trust:
    """Return the trust with what the rows teach: weights, and how far off it is on unseen images.

    A Gaussian process over the trials, whose reach and noise tell most of images left out.
    Raises: CannotTell where there are too few.
    """
    image_R = np.array([one.image for one in rows])
    clean = [one for one in rows if not one.kind]
    if len(rows) < _LEAST_ROWS or len({*image_R}) < LEAST_TRUST_IMAGES or not clean:
        raise CannotTell(f"the time was enough for {len(rows)} trials, it takes {_LEAST_ROWS}")
    signals_RS = np.array([one.signals for one in rows])
    wanted_RC = odds(np.array([one.ious for one in rows])) - UNKNOWN
    scale_S = np.maximum(signals_RS.std(axis=0), _LEAST_SCALE)
    num_places = AXES
    scale_S[-num_places:] = np.sqrt(np.square(scale_S[-num_places:]).mean()) * _PLACES
    trials_RS = signals_RS / scale_S
    best = (math.inf, 1.0, 0.1, np.zeros(len(rows)))
    for reach in _REACHES:
        alike_RR = resemblance(trials_RS, trials_RS, reach)
        for noise in _NOISES:
            off_R = _left_out(alike_RR, wanted_RC[:, 0], image_R, noise)
            error = float(np.abs(off_R).mean())
            if error < best[0]:
                best = (error, reach, noise, off_R)
    _, reach, noise, off_R = best
    alike_RR = resemblance(trials_RS, trials_RS, reach)
    return msgspec.structs.replace(
        trust,
        trials=tuple(_numbers(one) for one in trials_RS),
        kinds=tuple(one.kind for one in rows),
        signal_scale=_numbers(scale_S),
        reach=reach,
        noise=noise,
        weights=tuple(_weights(alike_RR, wanted_R, noise) for wanted_R in wanted_RC.T),
        residuals=_interval(off_R.tolist()),
        usual_iou=float(np.mean([one.ious[0] for one in clean])),
        num_images=len({*image_R}),
    )


def _weights(alike_RR: np.ndarray, wanted_R: np.ndarray, noise: float) -> tuple[float, ...]:
    """Return each trial's part in an expectation; empty where a class was hardly ever there."""
    known = np.isfinite(wanted_R)
    if known.sum() < _LEAST_ROWS // 2:
        return ()
    made = np.zeros(len(wanted_R))
    some = alike_RR[np.ix_(known, known)] + noise * np.eye(int(known.sum()))
    made[known] = np.linalg.solve(some, wanted_R[known])
    return _numbers(made)


def _left_out(
    alike_RR: np.ndarray, wanted_R: np.ndarray, image_R: np.ndarray, noise: float
) -> np.ndarray:
    """Return how far off each image's trials are when they are told by those of the others."""
    off_R = np.zeros(len(wanted_R))
    for image in np.unique(image_R):
        out, rest = image_R == image, image_R != image
        some = alike_RR[np.ix_(rest, rest)] + noise * np.eye(int(rest.sum()))
        told = alike_RR[np.ix_(out, rest)] @ np.linalg.solve(some, wanted_R[rest])
        off_R[out] = wanted_R[out] - told
    return off_R


def _interval(off: Sequence[float]) -> tuple[float, float]:
    """Return between what nine of ten residuals lie. Source: Lei et al. 2018 (split conformal)."""
    tail = (1 - _COVERED) / 2
    rank = max(0, math.floor((len(off) + 1) * tail) - 1)
    ordered = sorted(off)
    return min(0.0, ordered[rank]), max(0.0, ordered[-1 - rank])
