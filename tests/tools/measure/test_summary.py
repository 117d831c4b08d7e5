"""What tables amount to, against every row looked at one by one."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.measure import measure
from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.measure.standards.particle_sizes import percentiles
from emcfsys_engine.tools.measure.summary import need_duckdb, summarise
from tests.tools.drawn_masks import disc, measured, save_mask

RNG = np.random.default_rng(3)
NAMES = ("matrix", '=2+3"', "Körner, groß")


def write_tables(folder: Path, kind: str, num_objects: int = 3000) -> dict[str, np.ndarray]:
    """Write tables by other means than the program's own; return the sizes by class."""
    folder.mkdir(parents=True)
    size = RNG.lognormal(4, 0.6, num_objects)
    of = RNG.integers(1, 3, num_objects)
    cut = RNG.random(num_objects) < 0.2
    objects = {
        "class": [NAMES[one] for one in of],
        "equivalent_diameter_nm": size.tolist(),
        "touches_border": cut.tolist(),
    }
    area = RNG.integers(0, 1000, (20, 3))
    total = area.sum(1)
    images = {
        "mask": [f"m{n}" for n in range(20) for _ in NAMES],
        "labelled_px": [int(total[n]) for n in range(20) for _ in NAMES],
        "class": [name for _ in range(20) for name in NAMES],
        "class_value": [value for _ in range(20) for value in range(3)],
        "area_px": area.ravel().tolist(),
        "area_fraction": (area / total[:, None]).ravel().tolist(),
    }
    for stem, table in (("objects", objects), ("images", images)):
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.table(table), folder / f"{stem}.parquet")
            continue
        with (folder / f"{stem}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(table)
            for row in zip(*table.values(), strict=True):
                safe = ["'" + one if str(one).startswith("=") else one for one in row]
                writer.writerow(["yes" if o is True else "no" if o is False else o for o in safe])
    return {"size": size, "of": of, "cut": cut, "area": area, "total": total}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["numbers", "a[1]*b? c"])
def test_a_summary_tells_what_the_rows_amount_to(tmp_path: Path, kind: str, name: str) -> None:
    truth = write_tables(tmp_path / name, kind)
    found = summarise(tmp_path / name)
    assert (found.unit, found.num_masks, found.num_objects) == ("nm", 20, 3000)
    assert [one.name for one in found.classes] == list(NAMES)
    share = truth["area"] / truth["total"][:, None]
    for value, one in enumerate(found.classes):
        assert one.area_fraction == pytest.approx(
            truth["area"][:, value].sum() / truth["total"].sum()
        )
        assert one.mean_fraction == pytest.approx(share[:, value].mean())
        assert one.mean_fraction_ci95 is not None
        half = 2.093024 * share[:, value].std(ddof=1) / np.sqrt(20)  # Student's t of 19
        low, high = one.mean_fraction_ci95
        assert (high - low) / 2 == pytest.approx(half, rel=1e-5)
        mine = truth["of"] == value
        assert one.num_objects == mine.sum()
        if not value:
            continue
        sizes = truth["size"][mine]
        assert one.mean_diameter == pytest.approx(sizes.mean())
        assert one.sd_diameter == pytest.approx(sizes.std(ddof=1))
        assert one.median_diameter == pytest.approx(np.median(sizes), rel=2e-3)
        whole = truth["size"][mine & ~truth["cut"]]
        assert one.num_whole == len(whole)
        for power, by in zip((0, 2, 3), one.sizes, strict=True):
            wanted = percentiles(whole, whole**power)
            assert (by.d10, by.d50, by.d90) == pytest.approx(tuple(wanted), rel=2e-3)


def test_the_command_summarises_what_measure_wrote_in_any_format(tmp_path: Path) -> None:
    ids = disc((60, 60), (30, 30), 9).astype(np.uint8)
    save_mask(tmp_path / "masks/a.png", ids, (2.0, 2.0))
    texts: set[str] = set()
    for table in ("csv", "parquet", "parts"):
        out = Path(measured(tmp_path, table=table).objects_file).parent
        result = CliRunner().invoke(measure, [str(out), "--summary"])
        assert result.exit_code == 0, result.output
        texts.add(result.stdout)
        told = json.loads(CliRunner().invoke(measure, [str(out), "--summary", "--json"]).stdout)
        assert told["num_objects"] == 1
    assert len(texts) == 1


def test_a_summary_tells_what_measure_told_of_fields_of_unlike_pixels(tmp_path: Path) -> None:
    ids = np.zeros((60, 60), np.uint8)
    for number, (radius, nm) in enumerate(((4, 2.0), (9, 2.0), (9, 5.0), (14, 5.0))):
        drawn = ids + disc(ids.shape, (30, 30), radius).astype(np.uint8)
        save_mask(tmp_path / f"masks/{number}.png", drawn, (nm, 2 * nm))
    made = measured(tmp_path)
    told = summarise(Path(made.objects_file).parent)
    for one, other in zip(made.classes, told.classes, strict=True):
        assert one.area_fraction == pytest.approx(other.area_fraction)
    # Of an even number the middle is between two.
    assert told.classes[1].median_diameter == pytest.approx(
        made.classes[1].median_diameter, rel=1e-3
    )


def test_names_that_are_no_text_are_summarised(tmp_path: Path) -> None:
    ids = disc((60, 60), (30, 30), 9).astype(np.uint8)
    save_mask(tmp_path / "masks/a.png", ids, (2.0, 2.0))
    (tmp_path / "masks/a.png").rename(tmp_path / "masks" / "a\udcff.png")
    for table in ("csv", "parquet", "parts"):
        out = Path(measured(tmp_path, table=table).objects_file).parent
        assert summarise(out).num_objects == 1


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("objects.csv", b"a,b\n1,2\n", "no column"),
        ("objects.csv", b"class,touches_border,equivalent_diameter_nm\nx,no,many\n", "no table as"),
        ("objects.csv", b"\x00\xff\x00" * 99, "no "),
        ("objects.parquet", b"PAR1 rubbish", "no table as"),
        ("parts.json", b"{}", "no list of tables"),
        ("notes.txt", b"", "holds no table"),
    ],
)
def test_what_is_no_table_of_ours_is_said_in_one_line(
    tmp_path: Path, file: str, content: bytes, words: str
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        summarise(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_duckdb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(InputError, match=r"emcfsys-tui\[parquet\]"):
        need_duckdb()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_mask_without_a_labelled_pixel_is_not_in_the_mean_over_images(
    tmp_path: Path, form: str
) -> None:
    half = np.zeros((40, 40), np.uint8)
    half[:20] = 1
    for name, ids in {"half": half, "empty": half * 0, "unlabelled": half * 0 + 255}.items():
        save_mask(tmp_path / f"masks/{name}.png", ids, (5.0, 5.0))
    words = [str(tmp_path / "masks"), "--out", str(tmp_path / "numbers"), "--format", form]
    assert CliRunner().invoke(measure, words).exit_code == 0
    found = {one.name: one for one in summarise(tmp_path / "numbers").classes}
    assert found["class 1"].mean_fraction == pytest.approx(0.25)
    assert found["background"].mean_fraction == pytest.approx(0.75)


def test_tables_of_which_one_was_cut_are_told(tmp_path: Path) -> None:
    mask = np.zeros((60, 60), np.uint8)
    for corner in (2, 22, 42):
        mask[corner : corner + 10, corner : corner + 10] = 1
    save_mask(tmp_path / "masks" / "a.png", mask)
    classes = {"ground": 0, "pore": 1}
    measure_masks(str(tmp_path / "masks"), tmp_path / "out", MeasureSettings(classes=classes))
    assert summarise(tmp_path / "out").notes == ()
    objects = tmp_path / "out" / "objects.csv"
    objects.write_text("".join(objects.read_text().splitlines(keepends=True)[:2]))
    found = summarise(tmp_path / "out")
    told = "the table of objects has 1 of pore, that of images counts 3: one of them was changed"
    assert told in found.text
