"""An evaluation in shards: its images, how one is compared, and the scores of all at the end."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.annotations.files import read_with
from emcfsys_engine.annotations.masks import MaskRecipe
from emcfsys_engine.dataset.deals import refuse_renumbered_since
from emcfsys_engine.dataset.sources import LabelKind, LabelRef
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import DataFaults, EmcfError, InputError, OutputError, RunFolderError
from emcfsys_engine.files import remedy_of, write_whole
from emcfsys_engine.learn.device import choose_device, lost_gpu
from emcfsys_engine.learn.evaluate import (
    Evaluation,
    evaluation_of,
    images_asked_for,
    measure_of,
    write_scores,
)
from emcfsys_engine.learn.evaluate_deal import Images
from emcfsys_engine.learn.evaluate_images import Comparer, ImageCompared
from emcfsys_engine.learn.faults import refuse_lost_gpu
from emcfsys_engine.learn.inference.image import EndAskedFor
from emcfsys_engine.learn.inference.shards import WorkOfModels, at_once
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import Event, ImageFailed, ItemDone, RunStarted, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import EVALUATION, EvaluateRequest
from emcfsys_engine.run.shard_lines import AnyTold
from emcfsys_engine.run.shards import Header, ShardItem, models_of
from emcfsys_engine.shards.forecast import ShardForecast, reckoned, to_try
from emcfsys_engine.shards.work import (
    Asked,
    Done,
    Emit,
    Ended,
    ImageSizes,
    ItemBecame,
    Tally,
    Work,
    file_bytes,
    ref_of,
    state_of,
    why_changed,
)


class _OfAll(msgspec.Struct, frozen=True, kw_only=True):
    """What the list says of all images together."""

    project: Project
    is_own_deal: bool


class _Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """What the list says of one image beside its file. `states`: of the files that are read."""

    name: str
    source: int
    label: str
    kind: LabelKind
    plane: int | None
    item: int
    recipe: MaskRecipe
    parts: tuple[tuple[str, str], ...]
    states: tuple[str, ...]


def work_of(run: Run) -> Work:
    """Return what an evaluation brings.

    Raises: RunFolderError for another run.
    """
    if not isinstance(run.record().request, EvaluateRequest):
        raise RunFolderError(run.record_file, "is no evaluation", "Evaluate anew")
    return EvaluateWork(run)


class EvaluateWork(WorkOfModels):
    """An evaluation in shards."""

    request: EvaluateRequest
    _comparer: Comparer | None = None

    def write_list(self, emit: Emit, asked: Asked) -> Header:
        """Find the labelled images and write the list."""
        self._refuse_renumbered()
        found = images_asked_for(self.request)
        for note in found.notes:
            emit(WarningGiven(message=note))
        of_all = _OfAll(project=found.project, is_own_deal=found.is_own_deal)
        models = models_of(self.request).digests
        return self.shards.write(items_of(found), self.request.shards, models=models, own=of_all)

    def begun(self, header: Header) -> Sequence[Event]:
        """Tell what is compared, and whether a GPU is left unused."""
        request, card = self.request, read_card(Path(self.request.model))
        device = choose_device(request.gpus)
        started = RunStarted(
            run=self.run.id,
            does="evaluate",
            project=card.project,
            classes=card.classes,
            device=device.type,
            num_images=header.num_items,
        )
        lost = lost_gpu(device, request.gpus, os.environ)
        return [started, *([WarningGiven(message=lost)] if lost else [])]

    def begin(self, header: Header, shard: int, asked: Asked) -> "_Comparing":
        """Begin with one shard; the models are read with the first."""
        return _Comparing(self._loaded(header), asked)

    def _loaded(self, header: Header) -> Comparer:
        if self._comparer is None:
            gpus = None if self.request.gpus is None else min(1, self.request.gpus)
            measure = measure_of(self.request, _of_all(header).project)
            self._comparer = self.loaded(header, lambda: Comparer(measure, gpus))
        return self._comparer

    def refuse_changed(self, header: Header) -> None:
        """Check the models, and what the numbers in masks mean."""
        super().refuse_changed(header)
        self._refuse_renumbered()

    def is_outdated(self, header: Header) -> bool:
        """Tell whether another image is to be compared by now, or one of its files is another."""
        listed = (item for share in header.shards for item in self.shards.items(share))
        before = sorted(any_names.encode(item) for item in listed)
        now = items_of(images_asked_for(self.request))
        return before != sorted(any_names.encode(item) for item in now)

    def _refuse_renumbered(self) -> None:
        if self.request.project is not None:
            refuse_renumbered_since(self.request.project, self.run.record().numbers)

    def put_together(self, end: Ended) -> Tally:
        """Add up what was found, and write the scores; none of some of the images are written."""
        found: dict[int, ImageCompared] = {}
        failed = 0
        for one in end.in_order():
            became = _became(one)
            if isinstance(became, ImageCompared):
                found[one.item.number] = became
            else:
                failed += 1
                end.tell(became)
        if failed:
            what = f"{failed} of {failed + len(found)} images could not be compared"
            remedy = "Mend them or take them out, then give the command again"
            end.emit(WarningGiven(message=f"{what}, so there are no scores. {remedy}"))
        else:
            of_all = _of_all(end.header)
            files = tuple(map(Path, self.request.models))
            own = of_all.is_own_deal
            self._write(evaluation_of(files, of_all.project, found, is_own_deal=own), end.emit)
        return Tally(done=len(found), failed=failed)

    def _write(self, made: Evaluation, emit: Emit) -> None:
        out = Path(self.request.out)
        file, wanted = write_scores(made, out), out / EVALUATION
        if file != wanted:
            what = f"is not as this program wrote it, and kept: the scores are in {file}"
            emit(WarningGiven(message=f"{wanted} {what}"))
        try:
            write_whole(self.run.folder / EVALUATION, file.read_bytes())
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            number = error.errno or 0
            place = self.run.folder / EVALUATION
            raise OutputError(place, what, remedy_of(error), errno=number) from None


class _Comparing:
    """Compares the images of one shard, one after the other."""

    book = None  # an image writes no file

    def __init__(self, comparer: Comparer, asked: Asked) -> None:
        self._comparer, self._asked = comparer, asked

    def run(self, items: Iterator[ShardItem]) -> Iterator[tuple[ShardItem, Done | Exception]]:
        """Yield each image with what was found in it."""
        self._comparer.predictor.before_batch = self._heed
        for item in items:
            try:
                yield item, self._done(item)
            except EndAskedFor:
                return
            except DataFaults as several:
                yield item, several.faults[0]
            except EmcfError as error:
                yield item, error
            except RuntimeError as error:
                refuse_lost_gpu(error)
                raise

    def _heed(self) -> None:
        if self._asked() is not None:
            raise EndAskedFor

    def _done(self, item: ShardItem) -> Done:
        began = time.monotonic()
        _refuse_changed(item)
        found = self._comparer.one(sample_of(item))
        _refuse_changed(item)  # while it was read
        seconds = time.monotonic() - began
        return Done(ItemDone(image=str(ref_of(item)), seconds=seconds), any_names.encode(found))

    def close(self) -> None:
        """Nothing was begun."""


def items_of(found: Images) -> Iterator[ShardItem]:
    """Yield the images as they stand in the list."""
    planes = Counter(one.image.path for one in found.samples if one.image.plane is not None)
    sizes = ImageSizes()
    for number, sample in enumerate(found.samples):
        label, image = sample.label, sample.image
        assert label is not None  # of an evaluation all have one
        size, pixels = sizes.of(image.path, planes[image.path] or 1, is_wanted=True)
        names = (file for file in read_with(label.path) if file.is_file())
        read = dict.fromkeys((label.path, *(file for _, file in label.parts), *names))
        own = _Labelled(
            name=sample.name,
            source=sample.source,
            label=str(label.path),
            kind=label.kind,
            plane=label.plane,
            item=label.item,
            recipe=label.recipe,
            parts=tuple((name, str(file)) for name, file in label.parts),
            states=tuple(map(state_of, (image.path, *read))),
        )
        also = tuple((str(file), file_bytes(file)) for file in read)
        yield ShardItem(number, str(image.path), image.plane, "", size, pixels, also=also, own=own)


def sample_of(item: ShardItem) -> Sample:
    """Return an image and its labels as the list names them."""
    own = msgspec.convert(msgspec.to_builtins(item.own), _Labelled)
    label = LabelRef(
        path=Path(own.label),
        kind=own.kind,
        plane=own.plane,
        item=own.item,
        recipe=own.recipe,
        parts=tuple((name, Path(file)) for name, file in own.parts),
    )
    return Sample(
        image=ref_of(item),
        label=label,
        source=own.source,
        split="test",
        name=own.name,
        group=None,
    )


def _of_all(header: Header) -> _OfAll:
    return msgspec.convert(msgspec.to_builtins(header.own), _OfAll)


def _became(one: ItemBecame) -> ImageCompared | AnyTold:
    """Return what was found in an image, or why nothing was.

    What changed since is not what was compared.
    """
    if one.event is None:
        return _failed(one.item, "nothing was told of it. Evaluate again")
    if not isinstance(one.event, ItemDone):
        return one.event
    try:
        _refuse_changed(one.item)
        found: ImageCompared = any_names.decode(one.result, ImageCompared)
    except InputError as error:
        return ImageFailed(image=one.event.image, reason=str(error))
    except msgspec.MsgspecError:
        return _failed(one.item, "what its task kept of it is damaged. Evaluate again")
    return found


def _failed(item: ShardItem, why: str) -> ImageFailed:
    return ImageFailed(image=str(ref_of(item)), reason=f"{ref_of(item)}: {why}")


def _refuse_changed(item: ShardItem) -> None:
    """Raises: InputError where one of an image's files is not as the list says."""
    own = msgspec.convert(msgspec.to_builtins(item.own), _Labelled)
    files = (item.image, *(file for file, _ in item.also))
    if what := why_changed(item, zip(files, own.states, strict=True), "its label "):
        raise InputError(str(ref_of(item)), what, "Evaluate again")


def forecast(request: EvaluateRequest) -> ShardForecast:
    """Compare a few images and reckon what all of them take; nothing is written.

    Raises: DataFaults, InputError; also where none of those tried can be compared.
    """
    found = images_asked_for(request)
    items = list(items_of(found))
    gpus = None if request.gpus is None else min(1, request.gpus)
    comparer = Comparer(measure_of(request, found.project), gpus)
    pixels = [one.pixels for one in items]
    seconds, kept_bytes, tried = _tried(comparer, [items[place] for place in to_try(pixels)])
    return reckoned(
        items,
        request.shards,
        at_once(request),
        rate=sum(one.pixels for one in tried) / max(1e-6, seconds),
        written_bytes=kept_bytes * len(items) // len(tried),
        tried=len(tried),
    )


def _tried(comparer: Comparer, items: Sequence[ShardItem]) -> tuple[float, int, list[ShardItem]]:
    """Return the seconds of a few images, the bytes that are kept of them, and those that worked.

    The first is done twice: first kernels take longer.
    """
    seconds, kept_bytes, tried = 0.0, 0, list[ShardItem]()
    for number, item in enumerate([items[0], *items]):
        began = time.monotonic()
        try:
            content = any_names.encode(comparer.one(sample_of(item)))
        except EmcfError:
            continue
        if number:
            seconds += time.monotonic() - began
            kept_bytes += len(content)
            tried.append(item)
    if not tried:
        what = f"none of {len(items)} images that were tried can be compared"
        raise InputError(items[0].image, what, "Look at it with inspect, at its label with check")
    return seconds, kept_bytes, tried
