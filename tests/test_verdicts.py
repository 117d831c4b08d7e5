"""Limits on numbers: what passes, what a person is to look at, what fails, and what is no limit."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.errors import ProjectError
from emcfsys_engine.project_tables import Limit
from emcfsys_engine.verdicts import (
    STATES,
    check_groups,
    check_limits,
    needs_objects,
    verdict_of,
    verdict_of_planes,
)

CLASSES = {"resin": 0, "grain": 7}
CONFIDENCE = Limit(review_below=0.8, fail_below=0.6)
_VALUES = st.floats(-10, 10)


@st.composite
def limits_of(draw: st.DrawFn) -> Limit:
    low, middle, higher, highest = sorted(draw(st.tuples(_VALUES, _VALUES, _VALUES, _VALUES)))
    kept = draw(st.lists(st.booleans(), min_size=4, max_size=4))
    names = ("fail_below", "review_below", "review_above", "fail_above")
    chosen = zip(names, (low, middle, higher, highest), kept, strict=True)
    return Limit(**{name: value for name, value, is_kept in chosen if is_kept})


@pytest.mark.parametrize(
    ("value", "state"), [(0.8, "pass"), (0.79, "review"), (0.6, "review"), (0.59, "fail")]
)
def test_a_value_at_its_limit_is_still_good(value: float, state: str) -> None:
    assert verdict_of({"confidence": value}, {"confidence": CONFIDENCE}).state == state


def test_a_reason_names_the_number_its_value_and_its_limit() -> None:
    told = verdict_of({"confidence": 0.55}, {"confidence": CONFIDENCE})
    assert told.reasons == ("confidence 0.55 is below 0.6 (fail)",)


def test_what_is_not_known_is_for_review_and_says_so() -> None:
    told = verdict_of({}, {"pixel_nm": Limit(fail_above=10), "sharpness": Limit(fail_below=0.1)})
    assert told.state == "review"
    assert "pixel_nm is not known: the image has no pixel size" in told.reasons[0]
    assert "not measured" in told.reasons[1]


@given(limit=limits_of(), values=st.tuples(_VALUES, _VALUES))
def test_a_number_that_moves_away_from_its_limits_never_gets_worse(
    limit: Limit, values: tuple[float, float]
) -> None:
    low, high = sorted(values)
    only_below = Limit(review_below=limit.review_below, fail_below=limit.fail_below)
    only_above = Limit(review_above=limit.review_above, fail_above=limit.fail_above)
    of = [STATES.index(verdict_of({"n": v}, {"n": only_below}).state) for v in (low, high)]
    assert of[0] >= of[1]
    of = [STATES.index(verdict_of({"n": v}, {"n": only_above}).state) for v in (low, high)]
    assert of[0] <= of[1]


@given(limits=st.dictionaries(st.sampled_from("abc"), limits_of(), min_size=1), data=st.data())
def test_the_worst_number_decides(limits: dict[str, Limit], data: st.DataObject) -> None:
    numbers = data.draw(st.dictionaries(st.sampled_from("abc"), _VALUES))
    alone = [verdict_of(numbers, {name: limit}) for name, limit in limits.items()]
    whole = verdict_of(numbers, limits)
    assert STATES.index(whole.state) == max(STATES.index(one.state) for one in alone)
    assert whole.reasons == tuple(why for one in alone for why in one.reasons)
    assert bool(whole.reasons) == (whole.state != "pass")


def test_the_worst_plane_decides_and_a_long_stack_tells_the_worst_planes() -> None:
    planes = {str(plane): {"confidence": 0.7} for plane in range(20)}
    planes["19"] = {"confidence": 0.1}
    told = verdict_of_planes(planes, {"confidence": CONFIDENCE})
    assert told is not None
    assert told.state == "fail"
    assert told.reasons[0].startswith("plane 19: confidence 0.1")
    assert told.reasons[-1] == "and 12 more planes"


def test_without_limits_or_numbers_nothing_is_judged() -> None:
    assert verdict_of_planes({"": {"confidence": 0.1}}, {}) is None
    assert verdict_of_planes({}, {"confidence": CONFIDENCE}) is None


def test_only_limits_on_objects_need_them_to_be_told_apart() -> None:
    assert not needs_objects(["confidence", "grain_fraction"], CLASSES)
    assert needs_objects(["grain_diameter_nm"], CLASSES)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"confidense": {"fail_below": 0.5}}, "limits.confidense: .* Did you mean 'confidence'"),
        ({"grain_objekts": {"fail_below": 1}}, "Did you mean 'grain_objects'"),
        ({"resin_objects": {"fail_below": 1}}, "is no number of an image"),  # the ground has none
        ({"confidence": {"fail_bellow": 0.5}}, "Did you mean 'fail_below'"),
        ({"confidence": {}}, "says nothing"),
        ({"confidence": {"fail_below": 60}}, "60 is no share. Use 0 to 1"),
        ({"sharpness": {"fail_below": math.nan}}, "nan is no limit"),
        ({"confidence": {"fail_below": 0.9, "review_below": 0.8}}, "0.9 is above review_below"),
        ({"pixel_nm": {"review_below": 9, "fail_above": 8}}, "9 is above fail_above"),
        ({"confidence": 0.8}, "is no table"),
        (0.8, r"limits: is no table. Write \[limits.confidence\]"),
    ],
)
def test_what_is_no_limit_is_named_with_its_remedy(given_: object, told: str) -> None:
    faults: list[ProjectError] = []
    check_limits(Path("project.toml"), given_, CLASSES, faults)
    with pytest.raises(ProjectError, match=told):
        raise faults[0]
    assert len(faults) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"group": 3}, "limits.group: is no text"),
        ({"group": "("}, "limits.group: '(' is no regular expression"),
        ({"groups": {"images": {"fail_below": 2}}}, "needs limits.group"),
        ({"group": "folder", "groups": 1}, "limits.groups: is no table"),
        (
            {"group": "folder", "groups": {"confidence_meen": {}}},
            "limits.groups.confidence_meen: is no number of a group of images. Did you mean",
        ),
        (
            {"group": "folder", "groups": {"grain_fraction_mean": {"fail_above": 2}}},
            "2 is no share",
        ),
    ],
)
def test_groups_that_cannot_be_are_refused_by_their_key(given: object, words: str) -> None:
    faults: list[ProjectError] = []
    check_groups(Path("project.toml"), given, {"resin": 0, "grain": 1}, faults)
    assert words in str(faults[0])


def test_the_groups_key_is_no_number_of_an_image() -> None:
    faults: list[ProjectError] = []
    given = {"group": "folder", "confidence": {"fail_below": 0.5}}
    assert list(check_limits(Path("p"), given, {"a": 0, "b": 1}, faults)) == ["confidence"]
    assert faults == []
