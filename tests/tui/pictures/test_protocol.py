"""Requests and answers of the child that looks at images, and what fits where."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_tui.pictures.protocol import Answer, PictureRequest, Reply, fit, room

SIDES = st.integers(1, 400)


def test_an_answer_announces_the_bytes_that_follow() -> None:
    line = Reply(Answer(key="k"), grey=b"gg", ids=b"i", graphic=b"abc").line()
    head, _, pixels = line.partition(b"\n")
    answer = msgspec.json.decode(head, type=Answer)
    assert (answer.num_grey, answer.num_ids, answer.num_rims, answer.num_graphic) == (2, 1, 0, 3)
    assert pixels == b"ggiabc"


@given(wide=SIDES, high=SIDES, width=SIDES, height=st.integers(2, 400))
def test_a_picture_keeps_its_form_and_stays_in_its_room(
    wide: int, high: int, width: int, height: int
) -> None:
    request = PictureRequest(key="k", path="p", width=width, height=height)
    num_x, num_y = room(request, wide, high)
    assert 1 <= num_x <= width
    assert 2 <= num_y <= height
    assert num_x == width or num_y == height or min(num_x, num_y) <= 2


@given(
    view=st.tuples(*[st.floats(-500, 500)] * 2, *[st.floats(0.1, 900)] * 2),
    width=st.integers(4, 300),
    height=st.integers(4, 300),
)
def test_what_is_zoomed_to_lies_in_the_image(
    view: tuple[float, float, float, float], width: int, height: int
) -> None:
    left, top, wide, high = fit(view, width, height)
    assert 0 <= left <= left + wide <= width + 1e-6
    assert 0 <= top <= top + high <= height + 1e-6
    assert fit((left, top, wide, high), width, height) == (left, top, wide, high)
