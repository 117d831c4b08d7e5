"""What a task keeps of each mask that it measured: MessagePack, arrays as their bytes.

Names of files and classes are not kept: the list of shards has them, of any bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.measure.masks import OneMask
from emcfsys_engine.tools.measure.tables import ClassShare
from emcfsys_engine.tools.report.sizes import SizeMap


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    one: OneMask  # without names, and without shares
    area_px: dict[int, int]  # by class value, of those that occur


_Array = tuple[str, tuple[int, ...], bytes]  # type, shape, content


def keep(one: OneMask) -> bytes:
    """Return all that a mask gave, but for its names."""
    looked = one.looked
    if looked is not None:
        seen = None if looked.map is None else SizeMap(name="", size_HW=looked.map.size_HW)
        looked = replace(looked, name="", map=seen)
    area_px = {share.value: share.area_px for share in one.measured.shares if share.area_px}
    measured = replace(one.measured, mask="", image="", shares=())
    without = tuple("" for _ in one.without_numbers)
    bare = replace(one, measured=measured, looked=looked, without_numbers=without)
    return _ENCODER.encode(_Kept(bare, area_px))


def kept(
    content: bytes, classes: Sequence[tuple[int, str]], *, mask: str, image: str, file_name: str
) -> OneMask:
    """Return what a mask of these names gave; `classes` are values with names.

    Raises: InputError for what no task of ours kept.
    """
    try:
        one, area_px = _decoded(content)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise InputError(mask, f"what was kept of it is damaged: {error}", "Measure anew") from None
    looked = one.looked
    if looked is not None:
        seen = None if looked.map is None else replace(looked.map, name=mask)
        looked = replace(looked, name=mask, map=seen)
    shares = tuple(
        ClassShare(name=name, value=value, area_px=area_px.get(value, 0)) for value, name in classes
    )
    measured = replace(one.measured, mask=mask, image=image, shares=shares)
    without = tuple(file_name for _ in one.without_numbers)
    return replace(one, measured=measured, looked=looked, without_numbers=without)


def _decoded(content: bytes) -> tuple[OneMask, dict[int, int]]:
    found = _DECODER.decode(content)
    return found.one, found.area_px


def _to_kept(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(type(value))


def _from_kept(kind: type, value: Any) -> Any:
    if kind is not np.ndarray:
        raise NotImplementedError(kind)
    dtype, shape, content = msgspec.convert(value, _Array)
    if np.dtype(dtype).hasobject:
        raise ValueError("objects are no numbers")
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_kept)
_DECODER = msgspec.msgpack.Decoder(_Kept, dec_hook=_from_kept)
