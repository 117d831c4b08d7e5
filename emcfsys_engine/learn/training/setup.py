"""What a training works with, and how it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field

from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.distributed import Ranks
from emcfsys_engine.learn.training.plan import Plan
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import Event
from emcfsys_engine.run.folder import Run


@dataclass(kw_only=True)
class Parts:
    """What the loop works with, made by the worker."""

    run: Run
    project: Project
    plan: Plan
    card: ModelCard
    network: SegmentationNetwork
    train: Dataset
    val: Dataset
    say: Callable[[Event], None]
    asked: Callable[[], str | None]  # "cancel", "stop", "pause" or "terminated"
    ranks: Ranks = field(default_factory=Ranks)


@dataclass(kw_only=True)
class Ending:
    """Why the loop ended, and with what."""

    reason: str  # steps | minutes | early_stopping | stopped | cancelled | paused | terminated
    step: int
    score: float | None
