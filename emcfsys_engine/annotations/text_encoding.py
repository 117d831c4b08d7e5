"""Text of annotation files: UTF-8, or the encoding it is in instead, named with the remedy."""

import codecs
import shlex
from pathlib import Path

from emcfsys_engine.errors import AnnotationError

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # begins with UTF-16's mark: looked for first
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Python's name and the one that iconv and editors know.
_LEGACY = (
    ("shift_jis", "SHIFT_JIS"),
    ("gb18030", "GB18030"),
    ("big5", "BIG5"),
    ("euc_kr", "EUC-KR"),
    ("cp1251", "CP1251"),
    ("cp1252", "CP1252"),
)
_LEAST = 0.3  # below it is no text at all
_AS_LIKELY = 0.08  # a difference in likelihood that decides nothing
_LATIN = frozenset("äöüßÄÖÜéèêàâçñóíáúøåæØÅµ°²³×±")
_SPOKEN = {"GB18030": "GBK", "SHIFT_JIS": "Shift-JIS"}


def text_of(path: Path, data: bytes) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises: AnnotationError that names the encoding, and how to convert the file.
    """
    names = other_encodings(data)
    if not names:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise AnnotationError(path, "holds bytes that are no text", "Export it again") from None
    spoken = " or ".join(_SPOKEN.get(name, name) for name in names)
    quoted = shlex.quote(path.name)
    remedy = f"Convert it: iconv -f {names[0]} -t UTF-8 {quoted} > utf8 && mv utf8 {quoted}"
    raise AnnotationError(path, f"is text in {spoken}, not in UTF-8", remedy)


def other_encodings(data: bytes) -> tuple[str, ...]:
    """Return the likely encodings of a text by their names in iconv, best first; none for UTF-8."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return (name,)
    # Without a mark: ASCII in UTF-16 has a zero in every other byte.
    if len(data) >= 4 and data[:4].count(0) == 2 and (data[0] == 0) != (data[1] == 0):
        return ("UTF-16BE" if data[0] == 0 else "UTF-16LE",)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return _likeliest(data)
    return ()


def _likeliest(data: bytes) -> tuple[str, ...]:
    scores = {name: _likelihood(data, codec) for codec, name in _LEGACY}
    order = sorted(scores, key=lambda name: -scores[name])
    best = scores[order[0]]
    return tuple(name for name in order if best > _LEAST and scores[name] > best - _AS_LIKELY)


def _likelihood(data: bytes, codec: str) -> float:
    """Return how much a text decoded this way looks like words: 0 to 1, -1 where it is none."""
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return -1.0
    foreign = [character for character in text if ord(character) > 127]
    if not foreign:
        return 0.0
    return sum(_weight(character, codec) for character in foreign) / len(foreign)


def _weight(character: str, codec: str) -> float:
    code = ord(character)
    if 0x3041 <= code <= 0x30FF:  # kana: Japanese, whatever else can be written with it
        return 1.0 if codec == "shift_jis" else 0.4
    if 0xAC00 <= code <= 0xD7A3:  # Hangul
        return 0.85 if codec == "euc_kr" else 0.2
    if 0x4E00 <= code <= 0x9FFF:
        return 0.9 if _is_common(character, codec) else 0.3
    if codec == "cp1252":
        return 0.7 if character in _LATIN else 0.1
    return 0.5 if codec == "cp1251" and 0x410 <= code <= 0x44F else 0.1


def _is_common(character: str, codec: str) -> bool:
    """Tell whether a Chinese character is one of the often used of its character set."""
    try:
        first = character.encode({"gb18030": "gb2312"}.get(codec, codec))[0]
    except UnicodeEncodeError:
        return False
    low, high = {
        "gb18030": (0xB0, 0xD7),
        "big5": (0xA4, 0xC6),
        "shift_jis": (0x88, 0x97),
    }.get(codec, (0, 0))
    return low <= first <= high
