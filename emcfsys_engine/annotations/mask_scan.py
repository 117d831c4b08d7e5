"""Read every mask of a source once, two at a time, to know its size and values."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from emcfsys_engine.annotations.label_values import LabelTable
from emcfsys_engine.annotations.masks import MaskFacts, mask_facts
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef

_THREADS = 2  # decoding releases Python's lock; more threads would only cost memory


def scan_masks(
    masks: Sequence[ImageRef], table: LabelTable, faults: list[InputError]
) -> dict[ImageRef, MaskFacts]:
    """Return the facts of each mask; one that cannot be read becomes a fault."""
    found: dict[ImageRef, MaskFacts] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        for mask, result in zip(masks, threads.map(lambda m: _facts(m, table), masks), strict=True):
            if isinstance(result, InputError):
                faults.append(result)
            else:
                found[mask] = result
    return found


def _facts(mask: ImageRef, table: LabelTable) -> MaskFacts | InputError:
    try:
        return mask_facts(mask, table)
    except InputError as fault:
        return fault
