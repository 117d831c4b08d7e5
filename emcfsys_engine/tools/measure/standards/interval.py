"""95 % intervals of means over fields, also with what validation images say of the model's errors.

A mean of n fields has the interval t s / √n with Student's t of n - 1 degrees of freedom, as ASTM
E112, E562 and E1245 ask for; one field brings a variance of its own, from its parts or its
two-point correlation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from emcfsys_engine.errors import InputError

_TWO_SIDED = 0.975


@dataclass(frozen=True, kw_only=True)
class FieldValue:
    """What one field says, and how sure it is by itself.

    Units: variance is that of the value, about the mean of the material; None where the field
    cannot tell.
    """

    value: float
    variance: float | None = None
    freedom: float = 1.0  # degrees, of the variance


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean with half the width of its 95 % interval; None where nothing says how sure it is."""

    mean: float
    sd: float | None  # over fields
    half_width: float | None
    num_fields: int

    @property
    def low(self) -> float | None:
        """The lower end."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """The upper end."""
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def relative_accuracy_percent(self) -> float | None:
        """Half the width over the mean (%RA)."""
        if self.half_width is None or self.mean == 0:
            return None
        return 100 * self.half_width / abs(self.mean)


def t_95(freedom: float) -> float:
    """Return how many standard errors a 95 % interval reaches to each side (Student 1908)."""
    return float(stdtrit(freedom, _TWO_SIDED))


def field_of_parts(values: Sequence[float], *, alike: float = 1.0) -> FieldValue:
    """Return the value of a field from its parts, with the variance of their mean.

    alike is how many times the variance is that of independent parts.
    """
    if len(values) < 2:
        return FieldValue(value=float(values[0]))
    variance = alike * float(np.var(values, ddof=1)) / len(values)
    return FieldValue(value=float(np.mean(values)), variance=variance, freedom=len(values) - 1)


def over_fields(fields: Sequence[FieldValue]) -> Spread:
    """Return the mean of the fields with its interval; that of a single one is its own."""
    mean, variance, freedom = _mean_of(fields)
    half = None if variance is None else t_95(freedom) * math.sqrt(variance)
    return Spread(mean=mean, sd=_sd_of(fields), half_width=half, num_fields=len(fields))


def prediction_powered(
    fields: Sequence[FieldValue], predicted: Sequence[float], true: Sequence[float]
) -> Spread:
    """Return the mean corrected by the model's mean error on validation images.

    mean = mean(fields) + mean(true - predicted); the variances of the two means add up. The
    interval holds for whatever the model gets wrong, as long as both are images of one kind.
    Shapes: predicted and true have one number a validation image, at least two of them.
    Raises: InputError for fewer.
    Source: Angelopoulos et al. 2023 (prediction-powered inference, arXiv:2301.09633, for a mean),
            with Student's t after Welch and Satterthwaite where it has a normal quantile: labelled
            images are few.
    """
    errors = np.subtract(true, predicted)
    if errors.size < 2:
        what = f"{errors.size} validation images have a number in both masks"
        raise InputError("--calibrate", what, "Two or more are needed: label more of them")
    mean, variance, freedom = _mean_of(fields)
    of_errors = float(errors.var(ddof=1)) / errors.size
    half = None
    if variance is not None:
        total = variance + of_errors
        inner = variance**2 / freedom + of_errors**2 / (errors.size - 1)
        half = t_95(total**2 / inner) * math.sqrt(total) if inner > 0 else 0.0
    return Spread(
        mean=mean + float(errors.mean()),
        sd=_sd_of(fields),
        half_width=half,
        num_fields=len(fields),
    )


def _mean_of(fields: Sequence[FieldValue]) -> tuple[float, float | None, float]:
    """Return the mean, the variance of that mean and its degrees of freedom."""
    values = np.array([field.value for field in fields])
    if values.size > 1:
        return float(values.mean()), float(values.var(ddof=1)) / values.size, values.size - 1
    return float(values[0]), fields[0].variance, fields[0].freedom


def _sd_of(fields: Sequence[FieldValue]) -> float | None:
    return float(np.std([field.value for field in fields], ddof=1)) if len(fields) > 1 else None
