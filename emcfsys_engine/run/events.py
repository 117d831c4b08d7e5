"""What a worker can say: one JSON line an event, appended; readers take whole lines only.

The format is for ever: a field with a default may be added, none is renamed or reused.
`run_started` is the first line and carries the format number. `run_resumed(step)` voids every
earlier event with a later step. Times are seconds since 1970.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.files import next_lines, open_own, reading_own

FORMAT = 1
_TAIL_BYTES = 1 << 18  # an ending is a run's last word: it lies there


# A run of a million images has as many events: the garbage collector need not walk through them.
class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", gc=False):
    """Something that happened in a run."""

    time: float = msgspec.field(default_factory=time.time)


class RunStarted(Event, frozen=True, kw_only=True, tag="run_started"):
    """The worker began; always the first line of a run's events."""

    format: int = FORMAT
    run: str
    does: str  # train | predict | watch | measure | evaluate | convert
    project: str = ""
    classes: tuple[str, ...] = ()
    # Of a preset, too; None: ended by minutes, no training, or a preset of an older version.
    total_steps: int | None = None
    minutes: float | None = None
    device: str = ""
    num_images: int | None = None  # to predict, or to train on
    called: str = "images"  # what is counted by it


class RunResumed(Event, frozen=True, kw_only=True, tag="run_resumed"):
    """The worker went on from a checkpoint; earlier events with a later step are void."""

    step: int
    # The best model so far, scored anew because what is validated on changed; else null.
    best_score: float | None = None


class PlanMade(Event, frozen=True, kw_only=True, tag="plan_made"):
    """Every automatic choice was written to plan.json."""

    summary: str


class PhaseBegan(Event, frozen=True, kw_only=True, tag="phase_began"):
    """The worker turned to something that takes a while; the next step ends it."""

    phase: str  # validating | saving | waiting (for labels)
    step: int


class StepDone(Event, frozen=True, kw_only=True, tag="step_done"):
    """The worker finished one optimiser step; long runs say so only every few steps."""

    step: int  # 1 for the first; a resumed run goes on counting
    loss: float  # mean over the steps since the last such event; always finite
    learning_rate: float
    seconds: float  # wall time of one step, mean over the same steps
    skipped: int = 0  # of all steps so far: moved no weight, their gradients too large for fp16
    unlabelled_loss: float | None = None  # of images without labels; null: they took no part
    confident: float | None = None  # 0 to 1: the share of their pixels that taught


class MachineUsed(Event, frozen=True, kw_only=True, tag="machine_used"):
    """What the worker took of its machine since the last such event; said rarely."""

    step: int
    cpu: float  # processors that computed, mean: 3.5 is three and a half of them
    memory_gb: float  # resident
    gpu: float | None = None  # 0 to 1: the share of the last moment in which it computed
    gpu_memory_gb: float | None = None  # all that is taken of it, by others, too


class ObjectScores(msgspec.Struct, frozen=True, kw_only=True):
    """How well the objects of one class were found; None where there is none to compare."""

    ap50: float | None  # hits over hits, false and missed ones, at an IoU above 0.5
    ap50_95: float | None  # the mean over 0.50, 0.55 … 0.95
    pq: float | None  # panoptic quality: sq times rq
    sq: float | None  # mean IoU of the hits
    rq: float | None  # F1 of objects
    splits: int  # true objects that hold most of several found ones
    merges: int  # found objects that hold most of several true ones
    num_found: int
    num_true: int
    size_error: float | None  # Wasserstein distance of the equivalent diameters
    size_unit: str  # nm | px


class ValidationDone(Event, frozen=True, kw_only=True, tag="validation_done"):
    """All validation images were predicted whole and compared in one confusion matrix."""

    step: int
    train_loss: float
    val_loss: float
    mean_iou: float | None
    mean_foreground_iou: float | None
    accuracy: float
    iou: dict[str, float | None]  # null: the class is in neither truth nor prediction
    f1: dict[str, float | None]
    learning_rate: float
    images_per_s: float  # training patches a second since the last validation
    seconds_left: float | None
    score: float | None = None  # the value of training.best_by
    is_best: bool = False
    boundary_f1: dict[str, float | None] = {}  # null: the class has no boundary in either
    source_mean_iou: dict[str, float | None] = {}  # per [[data]] source, by its images path
    objects: dict[str, ObjectScores] = {}  # of classes whose objects are told apart


class LabelsJoined(Event, frozen=True, kw_only=True, tag="labels_joined"):
    """Labels that were drawn or changed since joined a training that follows them."""

    step: int
    train: tuple[str, ...] = ()  # images that train from now on
    val: tuple[str, ...] = ()  # images that validate from now on
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    num_train: int  # in all
    num_val: int


class CheckpointSaved(Event, frozen=True, kw_only=True, tag="checkpoint_saved"):
    """A file with its final name is whole."""

    step: int
    role: str  # best | last | final
    file: str  # relative to the run's folder
    score: float | None = None


class CheckpointPruned(Event, frozen=True, kw_only=True, tag="checkpoint_pruned"):
    """A beaten best model was removed."""

    step: int  # the step it came from
    role: str
    score: float | None = None


class PreviewSaved(Event, frozen=True, kw_only=True, tag="preview_saved"):
    """A small picture of one validation image: image, truth, prediction, error side by side."""

    step: int
    image: str
    file: str  # relative to the run's folder


class TrustLearned(Event, frozen=True, kw_only=True, tag="trust_learned"):
    """The best model can tell how good its masks are, or why it cannot."""

    images: int = 0  # validation images, and so many `trials` of them as they are and made worse
    trials: int = 0
    seconds: float = 0.0
    why_not: str = ""  # empty: it can


class WarningGiven(Event, frozen=True, kw_only=True, tag="warning"):
    """Something the person should know that did not stop the run."""

    message: str


class ImageDone(Event, frozen=True, kw_only=True, tag="image_done"):
    """One image has its mask on the disk."""

    image: str
    mask: str
    seconds: float
    shares: dict[str, float] = {}  # area fraction of each class
    confidence: float | None = None  # mean probability of the chosen class
    unlike: str = ""  # why the image is unlike the training data; empty: it is not
    model: str = ""
    lag_s: float | None = None  # from the last change of the file to its mask
    verdict: str = ""  # pass | review | fail by [limits]; empty: there are none
    verdict_reasons: tuple[str, ...] = ()  # why it did not pass
    expected_iou: float | None = None  # mean over the classes; None: its model cannot tell
    expected_low: float | None = None  # nine of ten lie between this and `expected_high`
    expected_high: float | None = None
    expected_class_iou: dict[str, float] = {}  # of each class that was found
    expected_reason: str = ""  # why it is low; empty: it is not


class RegionDone(Event, frozen=True, kw_only=True, tag="region_done"):
    """One region of a large image that tasks share out is on the disk; the image is done later."""

    image: str
    region: tuple[int, int, int, int]  # first row, first row beyond, the same of columns
    of: int  # regions of the image
    seconds: float
    shares: dict[str, float] = {}  # area fraction of each class
    confidence: float | None = None  # mean probability of the chosen class
    evidence: list[list[float]] = []  # by which it is told how good the mask is, a row a model


class ItemDone(Event, frozen=True, kw_only=True, tag="item_done"):
    """One item of a measurement or an evaluation in shards is done."""

    image: str  # or mask
    seconds: float = 0.0


class GroupJudged(Event, frozen=True, kw_only=True, tag="group_judged"):
    """A group of a hot folder's images has a verdict for the first time, or another one."""

    group: str
    verdict: str  # pass | review | fail by [limits.groups]; empty: there are none any more
    before: str = ""  # what was told last; empty: nothing
    reasons: tuple[str, ...] = ()  # why it did not pass
    images: int = 0


class ImageFailed(Event, frozen=True, kw_only=True, tag="image_failed"):
    """One image could not be predicted; the others go on."""

    image: str
    reason: str
    attempt: int = 1
    final: bool = True


class WatchState(Event, frozen=True, kw_only=True, tag="watch_state"):
    """The watched folder came, went, or changed how it is watched."""

    state: str  # watching | polling | offline | full (no space left) | waiting (for a disk)
    detail: str = ""


class RunFinished(Event, frozen=True, kw_only=True, tag="run_finished"):
    """The run did what it was asked."""

    reason: str  # steps | minutes | early_stopping | stopped | done
    step: int | None = None
    score: float | None = None
    done: int | None = None  # images, or what else `called` says
    failed: int | None = None
    called: str = "images"


class RunFailed(Event, frozen=True, kw_only=True, tag="run_failed"):
    """The run could not go on."""

    reason: str
    exit_code: int = 1


class RunRefused(Event, frozen=True, kw_only=True, tag="run_refused"):
    """A finished run was to go on, and could not: it is what it was before."""

    reason: str
    exit_code: int = 1


class RunCancelled(Event, frozen=True, kw_only=True, tag="run_cancelled"):
    """Somebody asked for an end; what was reached is saved."""

    step: int | None = None


class RunInterrupted(Event, frozen=True, kw_only=True, tag="run_interrupted"):
    """The machine or a pause ended the worker; what was reached is saved and can be resumed."""

    step: int | None = None
    reason: str = "terminated"


AnyEvent = (
    RunStarted
    | RunResumed
    | PlanMade
    | PhaseBegan
    | StepDone
    | MachineUsed
    | ValidationDone
    | LabelsJoined
    | CheckpointSaved
    | CheckpointPruned
    | PreviewSaved
    | TrustLearned
    | WarningGiven
    | ImageDone
    | RegionDone
    | ItemDone
    | GroupJudged
    | ImageFailed
    | WatchState
    | RunFinished
    | RunFailed
    | RunRefused
    | RunCancelled
    | RunInterrupted
)
Ending = RunFinished | RunFailed | RunRefused | RunCancelled | RunInterrupted


class EventWriter:
    """Appends events to one file; opening cuts a torn last line that a kill left behind.

    Raises: OSError when the disk is full; what was written before stays whole lines.
    """

    def __init__(self, file: Path) -> None:
        self._descriptor = open_own(file, os.O_RDWR | os.O_CREAT)
        end = _end_of_last_line(self._descriptor)
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)
        self._end = end

    def stay_at(self, file: Path) -> None:
        """Go on in the file of this name: its disk came back, or its folder was made again.

        Where it was removed, what it held is written anew.
        Raises: OSError.
        """
        try:
            found = os.stat(file, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if found is not None and os.path.samestat(found, os.fstat(self._descriptor)):
            return
        content = os.pread(self._descriptor, self._end, 0) if found is None else b""
        other = EventWriter(file)
        if content:
            os.write(other._descriptor, content)
            other._end = len(content)
        os.close(self._descriptor)
        self._descriptor, self._end = other._descriptor, other._end

    def write(self, event: Event, *, durable: bool = False) -> None:
        """Append one line; `durable` waits until it is on the disk."""
        self.write_all([event], durable=durable)

    def write_all(self, events: Sequence[Event], *, durable: bool = False) -> None:
        """Append a line each, all of them or none; `durable` waits until they are on the disk."""
        lines = b"".join([any_names.encode(event) + b"\n" for event in events])
        try:
            written = os.write(self._descriptor, lines)
            if written < len(lines):
                os.write(self._descriptor, lines[written:])
        except OSError:
            # Half a line would merge with the next event: take them back.
            os.ftruncate(self._descriptor, self._end)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            raise
        self._end += len(lines)
        if durable:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class EventReader:
    """Reads what is new in a file of events, whole lines only, from byte 0 on."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.skipped = 0  # lines that were no event we know
        self._offset = 0

    def read_new(self) -> list[AnyEvent]:
        """Return the events since the last call; an absent file has none.

        A file that became shorter (the run began anew) is read again from its start.
        Raises: OSError where it cannot be read now.
        """
        events: list[AnyEvent] = []
        try:
            with reading_own(self.file) as stream:
                if os.fstat(stream.fileno()).st_size < self._offset:
                    self._offset = 0
                stream.seek(self._offset)
                while block := next_lines(stream):
                    self._offset = stream.tell()
                    events += any_names.decode_lines(block, AnyEvent, self._skip)
        except FileNotFoundError:
            self._offset = 0
        except OSError:  # in its midst: what was read is told now, the error by the next call
            if not events:
                raise
        return events

    def _skip(self, line: bytes) -> None:
        self.skipped += 1


def reversed_events(file: Path, since: int = 0) -> Iterator[AnyEvent]:
    """Yield the file's newest events, the newest first; lines that are none are left out.

    None is decoded before it is asked for: how a run ended is mostly its last line.

    Units: only what lies after `since`, and at most the last 256 KiB, in bytes.
    Raises: OSError where it cannot be read now, which is no reason to judge.
    """
    try:
        with reading_own(file) as stream:
            end = stream.seek(0, 2)
            stream.seek(max(since if 0 <= since <= end else 0, end - _TAIL_BYTES))
            lines = stream.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    for line in reversed(lines):
        try:
            yield any_names.decode(line, AnyEvent)
        except msgspec.MsgspecError:
            continue  # a torn line, or a kind of a newer version


def end_of_events(file: Path) -> int:
    """Return where the next event will begin: after the last whole line; 0 where there is none.

    Units: bytes.
    Raises: OSError where it cannot be read now.
    """
    try:
        with reading_own(file) as stream:
            return _end_of_last_line(stream.fileno())
    except FileNotFoundError:
        return 0


def read_events(file: Path) -> list[AnyEvent]:
    """Return every event of a file, without those that a resume made void."""
    return without_void(EventReader(file).read_new())


def without_void(events: Iterable[AnyEvent]) -> list[AnyEvent]:
    """Drop the events that a later `run_resumed` made void: those with a later step.

    A start that was refused began nothing: of it the refusal stays.
    A run that was killed around a validation repeats it when it goes on: the newer one counts.
    """
    kept: list[AnyEvent] = []
    resumed_at = -1
    for event in events:
        if isinstance(event, RunResumed):
            resumed_at = event.step
            kept = [old for old in kept if (getattr(old, "step", None) or 0) <= event.step]
        elif isinstance(event, ValidationDone) and event.step == resumed_at:
            kept = [e for e in kept if not (isinstance(e, ValidationDone) and e.step == resumed_at)]
        elif isinstance(event, RunRefused):
            starts = [n for n, old in enumerate(kept) if isinstance(old, RunStarted)]
            if starts[1:]:
                del kept[starts[-1]]
        kept.append(event)
    return kept


def _end_of_last_line(descriptor: int) -> int:
    position = os.fstat(descriptor).st_size
    while position > 0:
        start = max(0, position - 65536)
        found = os.pread(descriptor, position - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0
