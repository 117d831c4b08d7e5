"""What the form offers for a network's name."""

from pathlib import Path

import pytest

from emcfsys_engine.settings import cache_home
from emcfsys_tui.engine import form
from emcfsys_tui.engine.form import backbone_fault, known_backbones
from emcfsys_tui.engine.runs import CommandEnd

KNOWN = frozenset({"resnet34", "resnet50", "convnext_tiny"})


def test_an_unknown_name_has_its_nearest_ones() -> None:
    assert backbone_fault("resnet34.a1_in1k", KNOWN) is None
    fault = backbone_fault("resnet43", KNOWN)
    assert fault is not None
    assert fault.key == "model.backbone"
    assert "resnet34" in fault.text
    assert backbone_fault("anything", frozenset()) is None  # timm could not be asked


def test_names_are_asked_for_once_a_version(monkeypatch: pytest.MonkeyPatch, world: Path) -> None:
    asked: list[list[str]] = []

    def answer(words: list[str], *, is_look: bool) -> CommandEnd:
        asked.append(words)
        return CommandEnd(code=0, out="\n".join(f"net{n}" for n in range(2000)), words="")

    monkeypatch.setattr(form, "run_command", answer)
    for _ in range(2):
        monkeypatch.setattr(form, "_names", {})
        assert "net7" in known_backbones()
    assert len(asked) == 1
    assert [file.name[:10] for file in cache_home().glob("backbones-*")] == ["backbones-"]
