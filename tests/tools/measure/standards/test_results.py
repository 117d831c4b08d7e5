"""Rows of a standard read the same in a table and on a terminal, also where a number is missing."""

from emcfsys_engine.tools.measure.standards.interval import FieldValue
from emcfsys_engine.tools.measure.standards.results import (
    Calibration,
    GrainSize,
    StandardReport,
    table_of_rows,
)
from emcfsys_engine.tools.measure.tables import csv_of

KNOWN = GrainSize(
    mask="",
    method="lines",
    num_fields=1,
    crossings_per_mm=100.0,
    grains_per_mm2=None,
    relative_accuracy_percent=7.5,
    grain_size_nm=1e4,
    grain_size_nm_ci95_low=9300.0,
    grain_size_nm_ci95_high=None,
    g=10.0,
    g_ci95_low=None,
    g_ci95_high=10.25,
)


def test_a_number_that_cannot_be_told_is_empty_in_the_table_and_a_dash_on_the_terminal() -> None:
    head, row = csv_of(table_of_rows([KNOWN])).decode().splitlines()
    assert head.split(",") == list(KNOWN.__struct_fields__)
    assert row == ",lines,1,100,,7.5,10000,9300,,10,,10.25"
    text = StandardReport(standard="e112", grain_sizes=(KNOWN,)).text
    assert "G = 10.00 [–, 10.25], 1e+04 nm [9300, –], RA 7.5 %, 1 field" in text


def test_a_method_that_an_image_cannot_tell_leaves_the_pair_out_a_phase_is_absent() -> None:
    one, two = FieldValue(value=1.0), FieldValue(value=2.0)
    calibration = Calibration(predicted=[{"a": one}, {}], true=[{"a": two}, {"a": two}])
    assert calibration.of("a") == ([1.0], [2.0])
    assert calibration.of("a", absent=0.0) == ([1.0, 0.0], [2.0, 2.0])
