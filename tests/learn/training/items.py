"""Images without labels, for crops."""

from types import SimpleNamespace

from emcfsys_engine.learn.training.dataset import TrainingItem


class Items(list[TrainingItem]):
    """Items that need no files."""

    project = SimpleNamespace(data=[SimpleNamespace(weight=1.0)])

    @property
    def samples(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(source=0)] * len(self)
