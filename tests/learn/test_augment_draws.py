"""What chance decides about a patch depends on its own seed and on nothing beside it."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.learn.augment_draws import Drawn, Strengths, draw

CPU = torch.device("cpu")
ALL = Strengths(**dict.fromkeys(Strengths.__struct_fields__, 1.0))


def of_patch(drawn: Drawn, number: int) -> dict[str, torch.Tensor]:
    """Return what was drawn for one patch of a batch, by name."""
    found = {}
    for name, values in drawn.on_device.items():
        kind = "curtaining" if name == "fade" else name.partition(".")[0]
        if name.endswith(".places"):
            continue
        chosen = drawn.chosen.get(kind)
        if chosen is None:
            found[name] = values[number]
        elif number in chosen:
            found[name] = values[chosen.index(number)]
    return found


@given(seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=5, unique=True))
def test_a_patchs_numbers_are_its_own_in_any_batch(seeds: list[int]) -> None:
    together = draw(seeds, 32, ALL, CPU)
    for number, seed in enumerate(seeds):
        alone = draw([seed], 32, ALL, CPU)
        ours, theirs = of_patch(together, number), of_patch(alone, 0)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


def test_without_strengths_no_patch_is_chosen_for_anything() -> None:
    drawn = draw(range(16), 32, Strengths(), CPU)
    assert not any(drawn.chosen.values())


def test_every_strength_chooses_some_of_many_patches() -> None:
    drawn = draw(range(256), 32, ALL, CPU)
    assert drawn.chosen
    for name, chosen in drawn.chosen.items():
        assert 0 < len(chosen) < 256, name
        assert drawn.places(name).tolist() == chosen
