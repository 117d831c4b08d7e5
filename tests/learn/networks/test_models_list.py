"""The list of backbones that a person chooses from."""

from emcfsys_engine.learn.networks.backbones import (
    DEFAULT_BACKBONE,
)
from emcfsys_engine.learn.networks.models_list import RECOMMENDED, list_models


def test_without_a_pattern_the_recommended_backbones_are_listed() -> None:
    rows = {row.name: row for row in list_models()}
    assert rows.keys() == RECOMMENDED.keys()
    default = rows[DEFAULT_BACKBONE]
    assert (default.weights_here, default.licence, default.recommendation) == (
        "package",
        "apache-2.0",
        "fast",
    )
    assert default.parameters == 4_652_008
    assert default.strides == (2, 4, 8, 16, 32)


def test_a_pattern_is_a_glob_or_a_part_of_the_name() -> None:
    assert [row.name for row in list_models("resnet1?")] == ["resnet18"]
    assert "convnext_atto" in [row.name for row in list_models("next_atto")]
