"""What a task keeps of a mask comes back as it was, to the bit."""

from dataclasses import fields

import numpy as np
import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.measure.kept_masks import keep, kept
from emcfsys_engine.tools.measure.masks import OneMask
from emcfsys_engine.tools.measure.objects import measure_objects
from emcfsys_engine.tools.measure.standards.interval import FieldValue
from emcfsys_engine.tools.measure.standards.study import Looked
from emcfsys_engine.tools.measure.tables import ClassShare, MaskMeasured
from emcfsys_engine.tools.report.sizes import SizeMap
from tests.tools.drawn_masks import blobs

_NAMES = ((0, "ground"), (1, "blob"), (2, "rim"))


def _one() -> OneMask:
    ids = blobs(3)
    areas = np.bincount(ids.ravel(), minlength=3).tolist()
    looked = Looked(
        name="a.png",
        shape=(40, 47),
        values={"lines": FieldValue(value=1 / 3, variance=None)},
        sizes=np.array([1.5, np.nan]),
        weights=np.zeros(0),
        map=SizeMap(name="a.png", size_HW=np.full((3, 2), 7, np.float32)),
        notes=("much",),
    )
    measured = MaskMeasured(
        mask="a.png",
        image="/in/a.tif#3",
        pixel=(5.0, 2.5),
        size_HW=(40, 47),
        labelled_px=ids.size,
        shares=tuple(ClassShare(name=n, value=v, area_px=areas[v]) for v, n in _NAMES),
        objects=measure_objects(ids, (1, 2), pixel=(5.0, 2.5), grey=ids * 100),
    )
    return OneMask(measured=measured, looked=looked, notes=("it has",), without_numbers=("a.png",))


def test_all_of_a_mask_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _one()
    words = {"mask": "a.png", "image": "/in/a.tif#3", "file_name": "a.png"}
    after = kept(keep(before), _NAMES, **words)
    for one in fields(before.measured.objects):
        was, now = (getattr(each.measured.objects, one.name) for each in (before, after))
        assert np.array_equal(was, now, equal_nan=True) and was.dtype == now.dtype
    assert str(after.looked) == str(before.looked)
    assert after.measured.shares == before.measured.shares
    assert (after.notes, after.without_numbers) == (before.notes, before.without_numbers)
    assert (after.measured.mask, after.measured.image) == ("a.png", "/in/a.tif#3")


@pytest.mark.parametrize("content", [b"", b"\xc0", keep(_one())[:-3], b"\x92\x80\x80"])
def test_what_no_task_kept_is_named(content: bytes) -> None:
    with pytest.raises(InputError, match="a.png: what was kept of it is damaged.*Measure anew"):
        kept(content, _NAMES, mask="a.png", image="", file_name="a.png")
