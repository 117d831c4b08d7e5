"""Every exception we raise, with its exit code; messages are one line: where, what, what to do.

EmcfError                    1  something we can explain went wrong
├── InputError               2  the user's files or words; nothing was half-written
│   ├── ProjectError            project.toml: file, key, what, remedy
│   ├── ProjectFaults           several ProjectErrors at once, one a line
│   ├── ImageError              a micrograph or mask that cannot be read
│   ├── AnnotationError         an annotation file that cannot be read or used
│   │   └── MaskNumbersError        masks whose values mean other classes in other files
│   ├── DataFaults              several faults of a data set at once, one a line
│   ├── ModelFileError          a model file that is damaged, unknown or of the future
│   ├── WeightsError            pretrained weights that cannot be had or do not fit
│   ├── RunFolderError          a run folder that cannot be used as asked
│   │   └── RecordClosedError       a run whose run.json only others may read
│   ├── WatchedError            an output folder that another watch writes into
│   └── OutputError             files that could not be written where they belong
├── RunFailedError           1  a run ended badly; the reason stands in its events
│   └── PeerLostError           another process of the same training is gone
├── DaemonError              3  the daemon could not be reached or started
├── SlurmError               3  Slurm could not be reached, or refused
├── QueueError               2  a job that does not exist, or a move that is not allowed
└── ShapeError               1  tensors that do not fit together: a mistake of ours
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class EmcfError(Exception):
    """Something went wrong that one line can explain."""

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Come to another process as it is, whatever it was made of."""
        return _as_it_was, (type(self), self.args, vars(self))


def _as_it_was(kind: type[EmcfError], args: tuple[object, ...], state: dict[str, object]) -> object:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(state)
    return error


class InputError(EmcfError):
    """The user's input cannot be used: which file or value, what is wrong, what to do."""

    exit_code = 2

    def __init__(self, where: Path | str, what: str, remedy: str = "") -> None:
        self.where = where
        self.what = what
        self.remedy = remedy
        super().__init__(_sentence(str(where), what, remedy))


class ProjectError(InputError):
    """One fault of project.toml, named by its key."""

    def __init__(self, file: Path | str, key: str, what: str, remedy: str = "") -> None:
        super().__init__(f"{file}: {key}" if key else file, what, remedy)
        self.file = file
        self.key = key


class _Faults(EmcfError):
    """Several faults found in one go, one line each."""

    exit_code = 2

    def __init__(self, faults: Sequence[InputError]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in faults))


class ProjectFaults(_Faults):
    """Every fault of one project.toml."""


class DataFaults(_Faults):
    """Every fault found in a project's images and labels."""

    def words(self) -> list[tuple[str, str, str]]:
        """Return what each says of where, what is wrong and what to do: to another process."""
        return [(str(one.where), one.what, one.remedy) for one in self.faults]

    @classmethod
    def of_words(cls, words: Iterable[tuple[str, str, str]]) -> "DataFaults":
        """Return the faults that other processes told, each once."""
        return cls([InputError(*each) for each in dict.fromkeys(words)])


class ImageError(InputError):
    """A file that is no micrograph, or one that cannot be read."""


class AnnotationError(InputError):
    """An annotation file that cannot be read, or that does not fit its micrograph."""


class UnknownClassError(AnnotationError):
    """A label, or a value of a mask, that is none of the project's classes."""


class MaskNumbersError(AnnotationError):
    """Masks whose values mean one class in some files and another in others: none can be used."""


class ModelFileError(InputError):
    """A model file that cannot be used."""


class WeightsError(InputError):
    """Weights that cannot be had here, or that do not fit the network."""


class RunFolderError(InputError):
    """A run folder that cannot be used as asked."""


class RecordClosedError(RunFolderError):
    """A run whose run.json only others may read: its events can still be looked at."""


class WatchedError(InputError):
    """Another watch writes into this output folder; `run` is its run folder, empty if unknown."""

    def __init__(self, where: Path, what: str, remedy: str, *, run: str = "") -> None:
        super().__init__(where, what, remedy)
        self.run = run


class OutputError(InputError):
    """Files that could not be written where they belong; `errno` is the system's, 0 for none."""

    def __init__(self, where: Path | str, what: str, remedy: str = "", *, errno: int = 0) -> None:
        super().__init__(where, what, remedy)
        self.errno = errno


def why_no_import(error: ImportError) -> str:
    """Return one line for a package that is missing or broken, such as torch."""
    words = " ".join(str(error).split())[:200]
    return f"a package cannot be used here: {words}. See what is missing: emcfsys-engine doctor"


class RunFailedError(EmcfError):
    """A run ended badly."""


class PeerLostError(RunFailedError):
    """Another process of the same training ended or does not answer."""


class DaemonError(EmcfError):
    """The daemon could not be reached or started."""

    exit_code = 3


class SlurmError(EmcfError):
    """Slurm did not do what was asked.

    `may_pass`: it is busy or away, so a new try may help. `unheard`: nothing can have been done.
    """

    exit_code = 3

    def __init__(self, message: str, *, may_pass: bool, unheard: bool = False) -> None:
        super().__init__(printable(message))
        self.may_pass = may_pass
        self.unheard = unheard


class QueueError(InputError):
    """A job that does not exist, or a move its state does not allow."""


class ShapeError(EmcfError):
    """Arrays or tensors that do not fit together."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One thing that was looked at, and what to do about it."""

    what: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


_DIRECTION_MARKS = (0x61C, 0x200E, 0x200F)


def printable(text: str) -> str:
    r"""Return text with every control character escaped (\x1b, \n …), safe for a terminal.

    File names, labels and logs come from outside: an ANSI escape in them must not reach the screen.
    Marks that turn the direction of writing, and lone surrogates, are escaped as well.
    """
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    is_control = code < 0x20 or 0x7F <= code < 0xA0
    is_bidi = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or code in _DIRECTION_MARKS
    if is_control or is_bidi or 0xD800 <= code <= 0xDFFF or code in (0x2028, 0x2029):
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def _sentence(where: str, what: str, remedy: str) -> str:
    parts = [f"{printable(where)}: {_stopped(printable(what))}"]
    if remedy:
        parts.append(_stopped(printable(remedy)))
    return " ".join(parts)


def _stopped(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
