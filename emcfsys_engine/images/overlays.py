"""Classes laid over a micrograph in their colours: of predictions, reports and contact sheets."""

from collections.abc import Sequence

import numpy as np

from emcfsys_engine.colours import Rgb

_OPACITY = 0.4


def laid_over(
    shown: np.ndarray,
    mask_HW: np.ndarray,
    values: Sequence[int],
    colours: Sequence[Rgb],
    *,
    opacity: float = _OPACITY,
    lines_HW: np.ndarray | None = None,
) -> np.ndarray:
    """Return a picture with its classes in colour; the first class stays as it is.

    `values` and `colours`: one a class. On lines, outlines of objects, the colour alone is seen.
    Shapes: shown is H×W or H×W×3 uint8, mask H×W class values of any integer type, lines H×W bool;
    the result is H×W×3 uint8.
    Raises: IndexError for values above 255.
    """
    # Every (class, grey) has one colour: a table is exact, and cheaper than arithmetic on pixels.
    table = np.repeat(np.arange(256, dtype=np.float32)[None, :, None], 256, axis=0)
    table = np.repeat(table, 3, axis=2)
    for value, colour in list(zip(values, colours, strict=True))[1:]:
        table[value] = table[value] * (1 - opacity) + np.asarray(colour, np.float32) * opacity
    ready = table.astype(np.uint8)
    if shown.ndim == 2:
        made = ready[mask_HW, shown]
    else:
        made = np.stack([ready[mask_HW, shown[..., c], c] for c in range(3)], axis=-1)
    if lines_HW is not None:
        alone = np.zeros((256, 3), np.uint8)
        alone[list(values)] = colours
        made[lines_HW] = alone[mask_HW[lines_HW]]
    return made
