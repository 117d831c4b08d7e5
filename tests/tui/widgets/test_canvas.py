"""Curves in braille: in exactly as many cells as asked for, with their ends where they belong."""

from hypothesis import given
from hypothesis import strategies as st

from emcfsys_tui.widgets.canvas import Frame, Stroke, draw_strokes

SIZES = st.integers(8, 60)
VALUES = st.floats(-1e6, 1e6)


@given(left=VALUES, span=st.floats(0.1, 1e6), width=SIZES, height=SIZES, is_log=st.booleans())
def test_cells_and_values_lead_to_each_other(
    left: float, span: float, width: int, height: int, is_log: bool
) -> None:
    frame = Frame(
        left=left, right=left + span, low=1.0, high=100.0,
        width=width, height=height, is_log=is_log,
    )  # fmt: skip
    assert [frame.column(frame.left), frame.column(frame.right)] == [0, width - 1]
    assert [frame.row(frame.high), frame.row(frame.low)] == [0, height - 1]
    for row in (0, height // 2, height - 1):
        assert frame.row(frame.y_at(row)) == row
    for column in (0, width // 2, width - 1):
        assert frame.column(frame.x_at(column)) == column


@given(ys=st.lists(st.floats(0, 1), min_size=2, max_size=30), width=SIZES, height=SIZES)
def test_a_drawing_is_as_large_as_its_frame(ys: list[float], width: int, height: int) -> None:
    frame = Frame(left=0, right=len(ys) - 1, low=0, high=1, width=width, height=height)
    xs = list(range(len(ys)))
    lines = draw_strokes(frame, [Stroke(xs=xs, ys=ys, colour=(255, 0, 0))])
    assert len(lines) == height
    assert {sum(len(segment.text) for segment in line) for line in lines} == {width}
