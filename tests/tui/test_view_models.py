"""What the interface draws, as values: each state has a look, each image its labels."""

from typing import get_args

import msgspec
import pytest

from emcfsys_engine.jobs.job import JobState
from emcfsys_engine.run.outcome import State
from emcfsys_tui import view_models
from emcfsys_tui.view_models import STATE_LOOKS, ImageFacts, ImageRow


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
    assert [row.key, row._replace(plane=3).key] == ["/in/a.tif", "/in/a.tif#3"]


def test_a_mask_with_unlabelled_pixels_labels_a_part_of_its_image() -> None:
    row = ImageRow(name="a", path="a.tif", state="whole", num_px=100)
    assert row.state_of_labels() == "whole"  # the size is not known yet
    assert row.state_of_labels(ImageFacts(size="10×10")) == "whole"
    assert row.state_of_labels(ImageFacts(size="20×10")) == "part"
