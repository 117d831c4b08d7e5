"""One thing that `check` found: where, what, what to do."""

from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine.errors import InputError, printable


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A fault, or something that a person would want to know before training."""

    level: Literal["error", "warning"]
    file: str
    what: str
    remedy: str = ""

    @classmethod
    def of(cls, fault: InputError) -> "Finding":
        """Return an error that was raised, as a finding."""
        return cls(level="error", file=str(fault.where), what=fault.what, remedy=fault.remedy)

    @classmethod
    def warn(cls, file: Path | str, what: str, remedy: str = "") -> "Finding":
        """Return a warning."""
        return cls(level="warning", file=str(file), what=what, remedy=remedy)

    @classmethod
    def error(cls, file: Path | str, what: str, remedy: str = "") -> "Finding":
        """Return an error."""
        return cls(level="error", file=str(file), what=what, remedy=remedy)

    @property
    def text(self) -> str:
        """One line for a terminal."""
        what = self.what if self.what.endswith((".", "!", "?")) else f"{self.what}."
        remedy = (
            f" {self.remedy}." if self.remedy and not self.remedy.endswith(".") else self.remedy
        )
        return printable(f"{self.level}: {self.file}: {what}{remedy}")
