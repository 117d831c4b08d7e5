"""The list of a prediction's shards: which images there are, how large, what is done already."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import left_out_words, probe
from emcfsys_engine.learn.inference.files import Prediction, find_inputs
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import Event
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shards import Header, Item, Shards, models_of

_MOST_PROBED = 20_000  # of more images the pixels are reckoned from the sizes of the files
_LIST_PATIENCE_S = 3600.0


def make_list(
    shards: Shards,
    request: PredictRequest,
    card: ModelCard,
    emit: Callable[[Event], None],
    asked: Callable[[], str | None],
) -> Header:
    """Return the list's first line; who comes first finds the images and writes the list.

    Raises: InputError, ImageError without images; RunFolderError for a list that is not ours.
    """
    if (header := shards.header()) is not None:
        return header
    lock = shards.claim_list(_LIST_PATIENCE_S)
    try:
        if (header := shards.header()) is not None:
            return header
        left_out: list[Path] = []
        refs = find_inputs(request, left_out)
        prediction = Prediction(request, refs, card, emit, asked)
        items = _items(refs, prediction)
        models = models_of(request).digests
        return shards.write(items, request.shards, left_out_words(left_out), models)
    finally:
        os.close(lock)


def _items(refs: Sequence[ImageRef], prediction: Prediction) -> Iterator[Item]:
    todo = set(prediction.todo)
    planes = Counter(ref.path for ref in refs)
    sizes = Sizes()
    for number, ref in enumerate(refs):
        mask = str(prediction.place_of(ref)[1])
        is_there = ref not in todo
        size, pixels = sizes.of(ref.path, planes[ref.path], is_wanted=not is_there)
        yield Item(number, str(ref.path), ref.plane, mask, size, pixels, is_there)


class Sizes:
    """Bytes and pixels of images: the first are looked at, of the rest the bytes tell."""

    def __init__(self) -> None:
        self._last: tuple[Path | None, tuple[int, int]] = (None, (0, 0))
        self._num_probed = 0
        self._seen: dict[str, tuple[int, int]] = {}  # by suffix: bytes and pixels

    def of(self, path: Path, planes: int, *, is_wanted: bool) -> tuple[int, int]:
        """Return a file's bytes, -1 for a folder, and the pixels of one of its planes."""
        if self._last[0] != path:
            self._last = path, self._look(path, planes, is_wanted=is_wanted)
        return self._last[1]

    def _look(self, path: Path, planes: int, *, is_wanted: bool) -> tuple[int, int]:
        try:
            status = os.stat(path)
        except OSError:
            return -1, 0
        size = -1 if stat.S_ISDIR(status.st_mode) else status.st_size
        known_bytes, known_pixels = self._seen.get(path.suffix, (0, 0))
        if is_wanted and (size < 0 or not known_bytes or self._num_probed < _MOST_PROBED):
            self._num_probed += 1
            with suppress(EmcfError):
                height, width = probe(path).shape[:2]
                seen = (known_bytes + size, known_pixels + height * width * planes)
                self._seen[path.suffix] = seen
                return size, height * width
        return size, max(0, size) * known_pixels // max(1, known_bytes) // planes
