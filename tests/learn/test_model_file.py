"""Model files: the same numbers to the bit, and one clear line for each way to be broken."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emcfsys_engine.colours import colours_for
from emcfsys_engine.errors import ModelFileError
from emcfsys_engine.learn.model_file import load_model, verify_model
from emcfsys_engine.learn.networks.network import SegmentationNetwork, build_network
from emcfsys_engine.model_card import NetworkSpec, edited_fields, read_card
from tests.learn.conftest import TINY


def _rewritten(file: Path, to: Path, **changes: object) -> Path:
    """Copy a model file with other words on its card."""
    card = json.loads(_metadata(file)["emcfsys"])
    metadata = {"format": "pt", "emcfsys": json.dumps({**card, **changes})}
    save_file(load_file(file), to, metadata)
    return to


def _metadata(file: Path) -> dict[str, str]:
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size])["__metadata__"]


def test_what_is_loaded_computes_the_same_to_the_bit(model_file: Path) -> None:
    torch.manual_seed(0)
    original = build_network(TINY).eval()
    loaded, _ = load_model(model_file)
    image = torch.randn(1, 1, 70, 50)
    with torch.inference_mode():
        assert torch.equal(original(image), loaded(image))


def test_the_test_vector_is_recomputed(model_file: Path) -> None:
    assert verify_model(model_file) == "identical to the bit; header unchanged"


_EDITS = {
    "classes": ["resin", "pore"],
    "class_values": [0, 8],
    "colours": [[1, 2, 3], [4, 5, 6]],
    "normaliser": {"low_percentile": 0.5, "high_percentile": 98.0, "kind": "percentile_zscore"},
    "pixel_nm": 4.5,
    "patch_px": 128,
    "step": 7,
    "scores": {"mean_iou": 0.99},
    "trained_on": {"other": ""},
    "validated_on": {"other": ""},
    "project": "another",
    "run": "run-0009",
    "created": "2020-01-01",
    "versions": {},
    "statistics": None,
}


@pytest.mark.parametrize("field", [*_EDITS, "network"])
def test_an_edited_header_is_found_by_name(field: str, model_file: Path, tmp_path: Path) -> None:
    network = json.loads(_metadata(model_file)["emcfsys"])["network"]
    value = _EDITS.get(field, {**network, "drop_path": 0.1})
    if field == "statistics":
        numbers = ("mean", "mean_deviation", "contrast", "contrast_deviation")
        value = {"num_images": 1, **dict.fromkeys(numbers, 1.0)}
    edited = _rewritten(model_file, tmp_path / "edited.safetensors", **{field: value})
    with pytest.raises(ModelFileError, match=f"was changed since it was made: {field}"):
        verify_model(edited)


def test_a_field_that_was_added_to_a_header_is_found(model_file: Path, tmp_path: Path) -> None:
    edited = _rewritten(model_file, tmp_path / "edited.safetensors", scale=2.0)
    assert edited_fields(edited) == ("scale",)


def test_an_older_file_says_that_it_has_no_digest_of_its_header(
    model_file: Path, tmp_path: Path
) -> None:
    older = _rewritten(model_file, tmp_path / "older.safetensors", digests={}, project="x")
    assert "no digest of its header" in verify_model(older)


def test_the_card_is_read_without_the_weights(model_file: Path) -> None:
    card = read_card(model_file)
    assert card.classes == ("resin", "grain")
    assert card.network == TINY
    assert card.versions["timm"]


def test_a_flipped_byte_is_found(model_file: Path, tmp_path: Path) -> None:
    content = bytearray(model_file.read_bytes())
    content[-1000] ^= 1
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content)
    with pytest.raises(ModelFileError, match="weights were changed"):
        load_model(broken)


@pytest.mark.parametrize("share", [0, 0.0001, 0.1, 0.5, 0.99])
def test_a_cut_file_is_one_line(model_file: Path, tmp_path: Path, share: float) -> None:
    content = model_file.read_bytes()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelFileError, match="broken.safetensors: ") as caught:
        load_model(broken)
    assert "\n" not in str(caught.value)


def test_a_missing_tensor_is_named(model_file: Path, tmp_path: Path) -> None:
    tensors = load_file(model_file)
    del tensors["head.weight"]
    card = {**json.loads(_metadata(model_file)["emcfsys"]), "weights_digest": ""}
    broken = tmp_path / "broken.safetensors"
    save_file(tensors, broken, {"emcfsys": json.dumps(card)})
    with pytest.raises(ModelFileError, match=r"lacks the tensor head\.weight"):
        load_model(broken)


def test_a_format_of_the_future_asks_for_an_update(model_file: Path, tmp_path: Path) -> None:
    file = _rewritten(model_file, tmp_path / "x.safetensors", format=3)
    with pytest.raises(ModelFileError, match="Update emcfsys-tui"):
        load_model(file)


def test_an_unknown_backbone_names_the_timm_it_was_made_with(
    model_file: Path, tmp_path: Path
) -> None:
    network = {**json.loads(_metadata(model_file)["emcfsys"])["network"], "backbone": "no_such"}
    file = _rewritten(model_file, tmp_path / "x.safetensors", network=network)
    with pytest.raises(ModelFileError, match="made with timm"):
        load_model(file)


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "int64", "complex64", "bool"])
def test_weights_of_another_kind_of_number_are_refused(
    model_file: Path, tmp_path: Path, kind: str
) -> None:
    tensors = load_file(model_file)
    tensors["head.weight"] = tensors["head.weight"].to(getattr(torch, kind))
    card = {**json.loads(_metadata(model_file)["emcfsys"]), "weights_digest": ""}
    file = tmp_path / "x.safetensors"
    save_file(tensors, file, {"emcfsys": json.dumps(card)})
    with pytest.raises(ModelFileError, match=rf"head\.weight is of torch\.{kind}"):
        load_model(file)


def test_a_network_that_the_tensors_do_not_fit_is_never_built(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = json.loads(_metadata(model_file)["emcfsys"])
    network = {**card["network"], "backbone": "eva_giant_patch14_224"}  # of 4 GB
    file = _rewritten(model_file, tmp_path / "x.safetensors", network=network, weights_digest="")
    built_on: list[str] = []

    def build(spec: NetworkSpec) -> SegmentationNetwork:
        built_on.append(torch.get_default_device().type)
        return build_network(spec)

    monkeypatch.setattr("emcfsys_engine.learn.model_file.build_network", build)
    with pytest.raises(ModelFileError, match="lacks the tensor"):
        load_model(file)
    assert built_on == ["meta"]


def test_bare_weights_are_no_model_file(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelFileError, match="no model file of ours"):
        read_card(tmp_path / "w.safetensors")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match="safetensors"):
        load_model(tmp_path / "w.pth")


def test_classes_get_different_colours() -> None:
    assert len(set(colours_for(30))) == 30
