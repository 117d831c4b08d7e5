"""Read every mask of a source once, two at a time, to know its size and values."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from emcfsys_engine.annotations.label_values import LabelTable
from emcfsys_engine.annotations.masks import MaskFacts, mask_facts
from emcfsys_engine.dataset.facts_cache import FactsCache
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef

_THREADS = 2  # decoding releases Python's lock; more threads would only cost memory
_AT_ONCE = 64  # so that a thousand decoded results never wait in memory


def scan_masks(
    masks: Sequence[ImageRef], table: LabelTable, faults: list[InputError], cache: FactsCache
) -> dict[ImageRef, MaskFacts]:
    """Return the facts of each mask; one that cannot be read becomes a fault."""
    found: dict[ImageRef, MaskFacts] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(masks), _AT_ONCE):
            part = masks[start : start + _AT_ONCE]
            results = threads.map(lambda mask: _facts(mask, table, cache), part)
            for mask, result in zip(part, results, strict=True):
                if isinstance(result, InputError):
                    faults.append(result)
                else:
                    found[mask] = result
    return found


def _facts(mask: ImageRef, table: LabelTable, cache: FactsCache) -> MaskFacts | InputError:
    key = f"mask:{mask.plane}:{bool(table.colours)}"
    known = cache.get(mask.path, key, MaskFacts)
    if known is not None:
        return known
    try:
        facts = mask_facts(mask, table)
    except InputError as fault:
        return fault
    cache.put(mask.path, key, facts)
    return facts
