"""Annotation files in another encoding are named with the remedy."""

import json
from pathlib import Path

import pytest

from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.errors import AnnotationError


@pytest.mark.parametrize(
    ("encoding", "word", "said"),
    [
        ("gbk", "析出相", "GBK"),
        ("shift_jis", "ミトコンドリア", "Shift-JIS"),
        ("utf-16", "pore", "UTF-16"),
        ("utf-16-le", "pore", "UTF-16LE"),
        ("cp1252", "Körner", "CP1252"),
    ],
)
def test_other_encodings_are_named_with_the_remedy(
    tmp_path: Path, encoding: str, word: str, said: str
) -> None:
    document = {"version": "5", "shapes": [{"label": word, "points": [[1, 1], [9, 1], [9, 9]]}]}
    file = tmp_path / "a.json"
    file.write_bytes(json.dumps(document, ensure_ascii=False).encode(encoding))
    with pytest.raises(AnnotationError) as caught:
        read_annotations(file)
    assert said in caught.value.what
    assert "iconv -f" in caught.value.remedy
    file.write_bytes(json.dumps(document, ensure_ascii=False).encode("utf-8-sig"))
    assert read_annotations(file)[0].shapes[0].label == word


@pytest.mark.parametrize("name", ["undefined", "idna", "hex", "no-such"])
def test_xml_that_declares_an_encoding_it_is_not_in_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.xml"
    file.write_bytes(b'<?xml version="1.0" encoding="%s"?><annotations/>\xff' % name.encode())
    with pytest.raises(AnnotationError, match=f"declares the encoding {name}"):
        read_annotations(file)
