"""JSON for names of any bytes: what is no UTF-8 stands as lone surrogates, refused by msgspec."""

import json
from typing import Any

import msgspec


def encode(value: Any, *, indent: int = 0) -> bytes:
    """Return a value as JSON; lone surrogates are escaped, and `decode` brings them back."""
    try:
        content = msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), indent=indent or None).encode("ascii")
    return msgspec.json.format(content, indent=indent) if indent else content


def decode(content: bytes, kind: Any) -> Any:
    r"""Return what `encode` wrote: as msgspec does, names with \udcXX included.

    Raises: msgspec.MsgspecError, also for bytes that are no text or nested too deep.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if rb"\ud" not in content:
            raise msgspec.DecodeError(str(error)) from None
    try:
        return msgspec.convert(json.loads(content), kind)
    except (ValueError, RecursionError) as error:
        if isinstance(error, msgspec.MsgspecError):
            raise
        raise msgspec.DecodeError(str(error)) from None
