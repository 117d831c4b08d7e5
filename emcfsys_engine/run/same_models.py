"""The models that a run began with: another one under a name is told from them.

A process that begins later reads the files again. Were one replaced meanwhile, masks of two models
would go by as one run's.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError
from emcfsys_engine.model_card import ModelCard, read_card


@dataclass(frozen=True, kw_only=True)
class SameModels:
    """Model files, and digests of what they said when the run began; none: nobody noted them."""

    files: tuple[Path, ...]
    digests: tuple[str, ...]

    @property
    def are_others(self) -> bool:
        """Whether a file holds another model now. Raises: ModelFileError."""
        return bool(self.digests) and self.digests != digests_of_models(self.files)

    def refuse_others(self, since: str, remedy: str) -> None:
        """Raises: InputError if a file holds another model now; ModelFileError."""
        now = digests_of_models(self.files) if self.digests else ()
        for file, before, digest in zip(self.files, self.digests, now, strict=False):
            if digest != before:
                raise InputError(file, f"is another model than when {since}", remedy)


def digests_of_models(files: Sequence[Path]) -> tuple[str, ...]:
    """Return what tells models apart from others under their names.

    Raises: ModelFileError.
    """
    return tuple(digest_of_card(read_card(file)) for file in files)


def digest_of_card(card: ModelCard) -> str:
    """Return what tells a model apart: its card has digests of its weights, or of what they do."""
    return hashlib.blake2b(any_names.encode(card), digest_size=16).hexdigest()
