"""Whatever happens between two starts, a run trains and validates on what it was dealt."""

import random
import shutil
from collections.abc import Callable

import pytest

from emcfsys_engine.learn.training import run as training
from emcfsys_engine.learn.training.plan import read_plan
from emcfsys_engine.model_card import read_card
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.events import PreviewSaved, RunStarted
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import extend, new_trainings
from tests.learn.conftest import add_image, run_here
from tests.learn.training.made import back_before_checkpoints
from tests.learn.training.test_kept_split import _redraw, read
from tests.thorough import tries

__all__ = ["read"]


class _World:
    """A project, the runs of one training in it, and what ought to be true of them."""

    def __init__(self, project: Project, seed: int) -> None:
        self.rng = random.Random(seed)
        kfold = self.rng.choice([0, 0, 2])
        words = ["training.steps=1", "training.validate_every=1", f"training.kfold={kfold}"]
        self.folder = project.folder
        self.runs = [run.id for run in new_trainings(load_project(project.file, words))]
        self.images = {file.stem for file in (self.folder / "images").iterdir()}
        self.dealt: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self.steps = dict.fromkeys(self.runs, 1)

    def run(self, name: str) -> Run:
        return Run(self.folder / "runs" / name)

    def add(self) -> None:
        name = f"later{self.rng.randrange(10**6)}"
        add_image(self.folder, name, self.rng.randrange(10**6))
        self.images.add(name)

    def remove(self) -> None:
        name = self.rng.choice(sorted(self.images))
        (self.folder / "images" / f"{name}.png").unlink()
        self.images.discard(name)

    def relabel(self) -> None:
        _redraw(load_project(self.folder), self.rng.choice(sorted(self.images)))

    def move(self) -> None:
        self.folder = self.folder.rename(self.folder.with_name(f"at{self.rng.randrange(10**6)}"))

    def copy(self) -> None:
        there = self.folder.with_name(f"copy{self.rng.randrange(10**6)}")
        shutil.copytree(self.folder, there)
        shutil.rmtree(self.folder)
        self.folder = there

    def reboot(self) -> None:
        for name in self.runs:
            back_before_checkpoints(self.run(name))

    def go_on(self, name: str, seen: list[tuple[str, str]]) -> None:
        """Begin or resume one run, and hold what it read and said against its plan."""
        run = self.run(name)
        if name in self.dealt:
            self.steps[name] += 1
            extend(run, (f"training.steps={self.steps[name]}",))
        before = len(run.events())
        seen.clear()
        code = run_here(run)
        plan = read_plan(run) if run.plan_file.exists() else None
        if plan is not None:
            train, val = self.dealt.setdefault(name, (plan.train_images, plan.val_images))
            assert (plan.train_images, plan.val_images) == (train, val)
            assert not set(train) & set(val)
        if code:
            assert code == 2, "what is gone for good is refused, nothing else"
            return
        train, val = self.dealt[name]
        parts = {part: {one for one, where in seen if where == part} for part in ("train", "val")}
        assert parts == {"train": set(train) & self.images, "val": set(val) & self.images}
        events = run.events()[before:]
        previews = {event.image for event in events if isinstance(event, PreviewSaved)}
        assert previews <= parts["val"]
        for event in events:
            assert not isinstance(event, RunStarted) or event.num_images == len(parts["train"])
        card = read_card(run.best_model)
        assert (tuple(card.trained_on), tuple(card.validated_on)) == (train, val)

    def folds_agree(self) -> None:
        """No image validates in two folds; it trains in the other, if it was there then."""
        deals = list(self.dealt.values())
        if len(self.runs) == 1 or len(deals) < 2:
            return
        (train, val), (other_train, other_val) = ((set(a), set(b)) for a, b in deals)
        in_both = (train | val) & (other_train | other_val)
        assert not val & other_val
        assert (train & in_both, val & in_both) == (other_val & in_both, other_train & in_both)


def _live(dealt: Project, read: list[tuple[str, str]], seed: int, rounds: int) -> None:
    world = _World(dealt, seed)
    ops: list[Callable[[], None]] = [
        world.add, world.remove, world.relabel, world.move, world.copy, world.reboot
    ]  # fmt: skip
    for _ in range(rounds):
        world.go_on(world.rng.choice(world.runs), read)
        world.folds_agree()
        for op in world.rng.sample(ops, 2):
            op()


def test_training_and_validation_never_mix(dealt: Project, read: list[tuple[str, str]]) -> None:
    _live(dealt, read, seed=1, rounds=2)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3, 3 + tries(6, 30)))
def test_training_and_validation_never_mix_in_many_lives(
    dealt: Project, read: list[tuple[str, str]], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 5:  # what a model learns of its own masks, after all steps, takes a third of the time
        monkeypatch.setattr(training, "keep_trust", lambda *_: None)
    _live(dealt, read, seed, rounds=5)
