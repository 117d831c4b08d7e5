"""Units in every spelling."""

import pytest

from emcfsys_engine.images.micrograph import nm_per


@pytest.mark.parametrize(
    ("unit", "nm"),
    [
        ("microns", 1e3), ("micrometers", 1e3), ("Micrometres", 1e3), ("nanometers", 1.0),
        ("angstroms", 0.1), ("Ångström", 0.1), ("Å", 0.1), ("µm", 1e3), ("millimeters", 1e6),
        ("m", 1e9), ("pixels", None), ("1/nm", None), ("s", None), ("ms", None), ("inches", None),
    ],
)  # fmt: skip
def test_units_are_read_in_every_spelling_and_none_is_guessed(unit: str, nm: float | None) -> None:
    assert nm_per(unit) == nm
