"""What a model file says of its network comes back from the file, from old ones too."""

import msgspec

from emcfsys_engine.model_card import NetworkSpec


def test_a_spec_survives_a_file() -> None:
    spec = NetworkSpec(head="pspnet", backbone="resnet18", num_classes=2, norm="group")
    assert msgspec.json.decode(msgspec.json.encode(spec), type=NetworkSpec) == spec


def test_the_oldest_spec_can_still_be_read() -> None:
    old = b'{"head": "unet", "backbone": "resnet18", "num_classes": 2}'
    spec = msgspec.json.decode(old, type=NetworkSpec)
    assert (spec.in_channels, spec.auxiliary, spec.norm, spec.drop_path) == (1, False, "batch", 0)
