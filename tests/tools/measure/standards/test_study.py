"""`measure --standard` from masks on the disk to a table, a page and JSON; what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result

from emcfsys_engine.commands.measure import measure
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.origins import Maker
from emcfsys_engine.images.output_book import OutputBook, digest_of_output
from emcfsys_engine.images.output_names import WantedName
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.measure.standards.results import (
    Standard,
    StandardReport,
    StandardSettings,
)
from tests.tools.drawn_masks import disc, rows_of, save_mask
from tests.tools.measure.standards.simulated import blobs, voronoi_grains

PHASES = {"rest": 0, "pore": 1}


def report_on(folder: Path, standard: Standard, **settings: object) -> StandardReport:
    done = measure_masks(
        str(folder / "masks"),
        folder / "out",
        MeasureSettings(standard=StandardSettings(standard=standard), **settings),
    )
    assert done.standard is not None
    return done.standard


def asked(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(
        measure, [str(folder / "masks"), "--out", str(folder / "out"), *words]
    )


def save_pores(folder: Path, num: int, fraction: float = 0.3, side: int = 96) -> None:
    for number in range(num):
        inside = blobs(np.random.default_rng(number), side, 3, fraction)
        save_mask(folder / f"{number}.png", inside.astype(np.uint8), (5.0, 5.0))


def save_grains(file: Path, seed: int, side: int = 150, area_px: float = 200) -> None:
    numbers = voronoi_grains(np.random.default_rng(seed), side, area_px)
    _, numbers = np.unique(numbers, return_inverse=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, (numbers.reshape(side, side) + 1).astype(np.uint16))


def test_the_table_says_what_json_and_terminal_say(tmp_path: Path) -> None:
    save_pores(tmp_path / "masks", 5)
    result = asked(tmp_path, "--standard", "e1245", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)["standard"]
    rows = rows_of(tmp_path / "out/e1245.csv")
    assert [row["mask"] for row in rows] == [*(f"{n}.png" for n in range(5)), ""]
    together = found["phase_fractions"][-1]
    assert float(rows[-1]["fraction"]) == pytest.approx(together["fraction"])
    low, high = together["fraction_ci95_low"], together["fraction_ci95_high"]
    shown = f"{100 * together['fraction']:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
    assert shown in asked(tmp_path, "--standard", "e1245").stdout
    assert (tmp_path / "out/objects.csv").exists()  # beside what measure always writes


@pytest.mark.parametrize(
    ("standard", "columns"),
    [
        ("e112", {"crossings_per_mm", "grains_per_mm2", "grain_size_nm", "g", "g_ci95_low"}),
        ("e562", {"fraction", "fraction_ci95_low", "sd", "relative_accuracy_percent"}),
        ("iso13322", {"d10_nm", "d50_nm", "d90_nm_ci95_high", "particles_missing"}),
    ],
)
def test_every_column_carries_its_unit(
    tmp_path: Path, standard: Standard, columns: set[str]
) -> None:
    save_pores(tmp_path / "masks", 2)
    report = report_on(tmp_path, standard, classes=PHASES)
    assert columns <= rows_of(report.files[0])[0].keys()


def test_grains_make_a_page_with_distributions_and_maps(tmp_path: Path) -> None:
    for number in range(2):
        save_grains(tmp_path / f"masks/{number}.tif", number)
    report = report_on(tmp_path, "e112", pixel_nm=(10.0, 10.0), background="none", numbered=True)
    together = {row.method: row for row in report.grain_sizes if not row.mask}
    # Points by chance, one in 200 pixels of 10 nm: 1 / √N_A = √200 × 10 nm.
    assert together["planimetric"].grain_size_nm == pytest.approx(141, rel=0.08)
    assert together["lines"].grain_size_nm == pytest.approx(111, rel=0.08)
    content = Path(report.files[1]).read_text()
    assert content.count("<svg viewBox") >= 2
    assert content.count("data:image/png") == 2
    assert "cumulative" in content
    assert "density" in content


def test_a_boundary_class_parts_grains(tmp_path: Path) -> None:
    ids = np.full((120, 120), 255, np.uint8)
    ids[::12] = ids[:, ::12] = 0  # walls of one pixel
    save_mask(tmp_path / "masks/a.png", ids, (1000.0, 1000.0))
    (lines, _, _) = (
        row
        for row in measure_masks(
            str(tmp_path / "masks"),
            tmp_path / "out",
            MeasureSettings(standard=StandardSettings(standard="e112", lines=2000)),
        ).standard.grain_sizes
        if not row.mask
    )
    # 9 walls each way in 117 µm of the three parts: 4 / π of that in any direction.
    assert lines.grain_size_nm == pytest.approx(117000 / 9 * np.pi / 4, rel=0.05)


def test_without_a_scale_there_is_no_standard_number(tmp_path: Path) -> None:
    save_pores(tmp_path / "masks", 2)
    save_mask(tmp_path / "masks/later.png", np.ones((20, 20), np.uint8))
    with pytest.raises(InputError, match=r"later\.png.*Give --pixel-nm"):
        report_on(tmp_path, "e1245")
    assert not (tmp_path / "out").exists()
    assert report_on(tmp_path, "e1245", pixel_nm=(5.0, 5.0)).phase_fractions


def test_fields_of_another_magnification_are_refused(tmp_path: Path) -> None:
    save_pores(tmp_path / "masks", 2)
    save_mask(tmp_path / "masks/near.png", np.ones((20, 20), np.uint8), (5.01, 5.01))
    assert report_on(tmp_path, "e1245").phase_fractions
    save_mask(tmp_path / "masks/far.png", np.ones((20, 20), np.uint8), (10.0, 10.0))
    with pytest.raises(InputError, match=r"5 × 5 nm.*each magnification by itself"):
        report_on(tmp_path, "e1245")


@pytest.mark.parametrize("standard", ["e112", "e562", "e1245", "iso13322"])
def test_empty_full_tiny_and_unlabelled_masks_give_rows_or_say_why_not(
    tmp_path: Path, standard: Standard
) -> None:
    masks = {
        "empty": np.zeros((30, 30)),
        "full": np.ones((30, 30)),  # one object that all sides cut
        "pixels": disc((30, 30), (9, 9), 0.5),  # of one pixel
        "unlabelled": np.full((30, 30), 255),
        "narrow": np.ones((1, 30)),
        "single": np.ones((1, 1)),
    }
    for name, ids in masks.items():
        folder = tmp_path / name
        save_mask(folder / "masks/a.png", ids.astype(np.uint8), (5.0, 5.0))
        report = report_on(folder, standard, classes=PHASES)
        assert report.text
        numbers = [getattr(row, name) for row in report.rows for name in row.__struct_fields__]
        assert all(np.isfinite(n) for n in numbers if isinstance(n, float)), (name, report)
    report = report_on(tmp_path / "full", standard, classes=PHASES)
    assert report.notes


@pytest.mark.parametrize("standard", ["e562", "e1245"])
@pytest.mark.parametrize("classes", [PHASES, None])
def test_a_mask_without_a_labelled_pixel_is_no_field_and_an_empty_one_is(
    tmp_path: Path, standard: Standard, classes: dict[str, int] | None
) -> None:
    half = np.zeros((40, 40), np.uint8)
    half[:20] = 1
    masks = {"half": half, "empty": half * 0, "unlabelled": half * 0 + 255}
    for name, ids in masks.items():
        save_mask(tmp_path / f"masks/{name}.png", ids, (5.0, 5.0))
    report = report_on(tmp_path, standard, classes=classes)
    whole = [row for row in report.phase_fractions if not row.mask]
    assert [(row.num_fields, row.fraction) for row in whole] == [(2, pytest.approx(0.25))]
    assert any("unlabelled.png: no labelled pixel" in note for note in report.notes)


@pytest.mark.long
def test_many_numbered_particles_are_as_many(tmp_path: Path) -> None:
    numbers = np.zeros((1024, 1024), np.uint16)
    numbers[1:-1:4, 1:-1:4] = np.arange(1, 256 * 256 + 1).reshape(256, 256).clip(max=65535)
    numbers[2:-1:4, 1:-1:4] = numbers[1:-2:4, 1:-1:4]
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks/a.tif", numbers)
    report = report_on(tmp_path, "iso13322", pixel_nm=(2.0, 2.0))
    row = report.size_distributions[0]
    assert row.num_particles == 65535
    assert row.d50_nm == pytest.approx(2 * np.sqrt(8 / np.pi))


def test_numbered_says_that_small_numbers_are_objects_too(tmp_path: Path) -> None:
    numbers = np.zeros((40, 40), np.uint8)
    numbers[5:15, 5:15], numbers[5:15, 15:25], numbers[20:30, 5:15] = 1, 2, 3
    save_mask(tmp_path / "masks/a.png", numbers, (1.0, 1.0))
    report = report_on(tmp_path, "iso13322", numbered=True)
    assert report.size_distributions[0].num_particles == 3
    with pytest.raises(InputError, match="--numbered"):
        report_on(tmp_path, "iso13322", numbered=True, classes={"a": 0, "b": 1, "c": 2})


def test_validation_masks_bring_the_models_errors_in(tmp_path: Path) -> None:
    save_pores(tmp_path / "masks", 6, 0.35)
    rng = np.random.default_rng(0)
    for number in range(4):
        true = blobs(rng, 96, 3, 0.3)
        save_mask(tmp_path / f"true/{number}.png", true.astype(np.uint8))
        guess = true | blobs(rng, 96, 3, 0.05)  # a model that sees a little too much
        save_mask(tmp_path / f"guess/{number}.png", guess.astype(np.uint8))
    plain = report_on(tmp_path, "e1245").phase_fractions[-1]
    folders = (str(tmp_path / "guess"), str(tmp_path / "true"))
    report = report_on(tmp_path, "e1245", calibrate=folders)
    assert report.num_validation_images == 4
    assert report.phase_fractions[-1].fraction < plain.fraction - 0.01
    result = asked(tmp_path, "--standard", "e1245", "--calibrate", *folders)
    assert "4 validation images" in result.stdout
    (tmp_path / "lonely").mkdir()
    save_mask(tmp_path / "lonely/0.png", np.ones((20, 20), np.uint8))
    with pytest.raises(InputError, match="Two or more"):
        report_on(tmp_path, "e1245", calibrate=(folders[0], str(tmp_path / "lonely")))
    with pytest.raises(InputError, match="percentiles"):
        report_on(tmp_path, "iso13322", calibrate=folders)


def test_true_masks_that_a_model_made_are_named(tmp_path: Path) -> None:
    save_pores(tmp_path / "masks", 3)
    book = OutputBook(tmp_path / "true")
    book.stems(
        [WantedName(image=str(tmp_path / f"{n}.tif"), folder="", planes=(None,)) for n in range(3)],
        ".png",
    )
    for number in range(3):
        for folder in ("guess", "true"):
            save_mask(tmp_path / f"{folder}/{number}.png", np.eye(40, dtype=np.uint8))
        place = tmp_path / f"true/{number}.png"
        maker = Maker(model="run-0001 step 10", classes=PHASES)
        image = tmp_path / f"{number}.tif"
        book.note({place: digest_of_output(place)}, image=image, content="1", maker=maker)
    save_mask(tmp_path / "true/0.png", np.ones((40, 40), np.uint8))  # a person corrected this one
    folders = (str(tmp_path / "guess"), str(tmp_path / "true"))
    report = report_on(tmp_path, "e1245", calibrate=folders)
    assert [note for note in report.notes if "2 of 3 true masks are as a model made them" in note]


def test_validation_masks_count_where_people_labelled_them(tmp_path: Path) -> None:
    save_pores(tmp_path / "masks", 4)
    for number in range(3):  # a model without errors, labels of the left half alone
        guess = np.zeros((40, 40), np.uint8)
        guess[:, 10 : 25 + number] = 1
        true = guess.copy()
        true[:, 20:] = 255
        save_mask(tmp_path / f"guess/{number}.png", guess)
        save_mask(tmp_path / f"true/{number}.png", true)
    folders = (str(tmp_path / "guess"), str(tmp_path / "true"))
    settings = {"classes": PHASES, "pixel_nm": (5.0, 5.0)}
    plain = report_on(tmp_path, "e1245", **settings).phase_fractions[-1]
    calibrated = report_on(tmp_path, "e1245", calibrate=folders, **settings).phase_fractions[-1]
    assert calibrated.fraction == pytest.approx(plain.fraction)
    save_mask(tmp_path / "true/0.png", np.ones((20, 20), np.uint8))
    with pytest.raises(InputError, match="is 40×40 px, its true mask 20×20 px"):
        report_on(tmp_path, "e1245", calibrate=folders, **settings)


def test_grains_are_calibrated_on_their_scale(tmp_path: Path) -> None:
    for number in range(3):
        for folder in ("masks", "guess", "true"):
            save_grains(tmp_path / f"{folder}/{number}.tif", number)
    folders = (str(tmp_path / "guess"), str(tmp_path / "true"))
    settings = {"pixel_nm": (10.0, 10.0), "background": "none", "numbered": True}
    plain = report_on(tmp_path, "e112", **settings)
    calibrated = report_on(tmp_path, "e112", calibrate=folders, **settings)
    assert calibrated.grain_sizes[-1].g == pytest.approx(plain.grain_sizes[-1].g)


def test_the_same_seed_draws_the_same_lines_and_another_one_others(tmp_path: Path) -> None:
    save_grains(tmp_path / "masks/a.tif", 1)
    words = ["--standard", "e112", "--pixel-nm", "10", "--background", "none", "--numbered"]
    first = asked(tmp_path, *words, "--json").stdout
    assert asked(tmp_path, *words, "--json").stdout == first
    assert asked(tmp_path, *words, "--seed", "1", "--json").stdout != first


def test_a_standards_options_need_a_standard(tmp_path: Path) -> None:
    save_pores(tmp_path / "masks", 1)
    for words in (["--lines", "20"], ["--seed", "1"], ["--calibrate", "a", "b"]):
        result = asked(tmp_path, *words)
        assert result.exit_code == 2
        assert "--standard" in result.output


def test_names_that_a_spreadsheet_would_run_are_text(tmp_path: Path) -> None:
    save_pores(tmp_path / "masks", 1)
    (tmp_path / "masks/0.png").rename(tmp_path / "masks/=1+1.png")
    report = report_on(tmp_path, "e1245", classes={"rest": 0, "@sum": 1})
    row = rows_of(report.files[0])[0]
    assert (row["mask"], row["phase"]) == ("'=1+1.png", "'@sum")


def test_a_phase_that_no_field_holds_has_no_interval(tmp_path: Path) -> None:
    save_pores(tmp_path / "masks", 5)
    report = report_on(tmp_path, "e1245", classes={**PHASES, "crack": 2})
    (crack,) = (row for row in report.phase_fractions if row.phase == "crack" and not row.mask)
    assert (crack.fraction, crack.fraction_ci95_low, crack.fraction_ci95_high) == (0.0, None, None)
    assert "crack: no field holds any: nothing says how rare it is" in report.notes


def test_maps_of_a_measurement_before_do_not_stay_beside_those_of_the_next(tmp_path: Path) -> None:
    options = {"pixel_nm": (10.0, 10.0), "background": "none", "numbered": True}
    for number in range(3):
        save_grains(tmp_path / f"masks/{number}.tif", number)
    report_on(tmp_path, "e112", **options)
    out = tmp_path / "out"
    assert len(list(out.glob("grain-map-*.png"))) == 3
    (out / "grain-map-3.png").write_bytes(b"a person's")
    (tmp_path / "masks/1.tif").unlink()
    (tmp_path / "masks/2.tif").unlink()
    report_on(tmp_path, "e112", **options)
    assert sorted(one.name[10] for one in out.glob("grain-map-*.png")) == ["1", "3"]
