"""What the interface draws, as values: each state has a look, each image its labels."""

from typing import get_args

import msgspec
import pytest

from emcfsys_engine.jobs.job import JobState
from emcfsys_engine.run.outcome import State
from emcfsys_tui import view_models
from emcfsys_tui.view_models import STATE_LOOKS, ImageFacts, ImageRow, Images


def test_every_state_of_a_run_and_of_a_job_has_a_look_of_one_cell() -> None:
    states = {*get_args(State), *get_args(JobState)}
    assert states
    assert states <= {*STATE_LOOKS, "new", "unreadable"}
    assert all(len(glyph) == 1 for glyph, _ in STATE_LOOKS.values())


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(view_models).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ],
)
def test_values_that_two_threads_share_cannot_change(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_config__.frozen


def test_an_image_is_known_by_its_file_and_plane() -> None:
    row = ImageRow(name="a", path="/in/a.tif")
    assert [row.key, msgspec.structs.replace(row, plane=3).key] == ["/in/a.tif", "/in/a.tif#3"]


def test_who_types_on_narrows_what_was_found_and_who_takes_back_widens_it() -> None:
    images = Images([ImageRow(f"a{n}", f"/in/a{n}.tif", split="val" * (n % 2)) for n in range(30)])
    found = [list(images.matching(words)) for words in ("2", "2 v", "2 val", "2", "", "xx", "A1")]
    twos = [2, 12, *range(20, 30)]
    odd = [n for n in twos if n % 2]
    assert found == [twos, odd, odd, twos, list(range(30)), [], [1, *range(10, 20)]]


def test_a_mask_with_unlabelled_pixels_labels_a_part_of_its_image() -> None:
    row = ImageRow(name="a", path="a.tif", state="whole", num_px=100)
    assert row.state_of_labels() == "whole"  # the size is not known yet
    assert row.state_of_labels(ImageFacts(size="10×10")) == "whole"
    assert row.state_of_labels(ImageFacts(size="20×10")) == "part"
