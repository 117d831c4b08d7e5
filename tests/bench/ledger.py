"""A ledger of a million images: how long status, charts and the list of what failed take.

Run: python -m tests.bench.ledger [ROWS]
"""

import contextlib
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from emcfsys_engine import any_names
from emcfsys_engine.hotfolder.groups import Group
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.ledger_file import ledger_file
from emcfsys_engine.hotfolder.review import overview
from emcfsys_engine.hotfolder.series import names_in, read_series, trend_of
from tests.bench.machine import machine_line

_NUMBERS = (
    '{"":{"confidence":0.9%d,"sharpness":0.%d,"saturation":0.01,"mean":120.5,"contrast":40.25,'
    '"pixel_nm":8.0,"a_fraction":0.6,"b_fraction":0.4,"b_objects":31,"b_diameter_nm":120.5}}'
)
_NAMES = [part.split('"')[-1] for part in _NUMBERS.split('":')[1:-1]]


def fill(output: Path, rows: int) -> None:
    """Write images as the watch does, without its masks."""
    Ledger(output, owner="bench").close()
    with contextlib.closing(sqlite3.connect(ledger_file(output))) as db:
        db.execute("PRAGMA synchronous=OFF")
        for first in range(0, rows, 50_000):
            part = range(first, min(rows, first + 50_000))
            with db:
                db.executemany(
                    "INSERT INTO seen VALUES (?,1,?,'d','done','m.png',1,0,'','run-0001 step 9',0)",
                    [(b"g%d/%08d.tif" % (n // 1000, n), n * 1_000_000_000) for n in part],
                )
                db.executemany(
                    "INSERT INTO judged VALUES (?,'d',?,?,'[]','','')",
                    [
                        (
                            b"g%d/%08d.tif" % (n // 1000, n),
                            (_NUMBERS % (n % 10, 100 + n % 897)).encode(),
                            ("pass", "pass", "pass", "review", "fail")[n % 5],
                        )
                        for n in part
                    ],
                )
                db.executemany(
                    "INSERT INTO made VALUES (?,'',?)",
                    [(b"g%d/%08d.tif" % (n // 1000, n), b"g%d" % (n // 1000)) for n in part],
                )
        with db:
            groups = [_group(n) for n in range(-(-rows // 1000))]
            db.executemany(
                "INSERT INTO groups VALUES (?,?,0)",
                [(one.name.encode(), any_names.encode(one)) for one in groups],
            )


def _group(number: int) -> Group:
    """Return how a thousand images were judged together, with as many numbers as a watch tells."""
    told = {f"{name}_{what}": 0.5 for name in _NAMES for what in ("mean", "median", "sd")}
    verdicts = {"pass": 600, "review": 200, "fail": 200}
    numbers = {"images": 1000.0, "fail_share": 0.2, **told}
    return Group(name=f"g{number}", numbers=numbers, verdicts=verdicts, state="review")


def charts(output: Path) -> None:
    """Read the newest images and reckon the charts of all their numbers."""
    images = read_series(output)
    for name in names_in(images):
        trend_of(images, name)


def main() -> None:
    """Print one line a question."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(machine_line("emcfsys-tui"))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        began = time.perf_counter()
        fill(output, rows)
        print(f"{rows:,} rows written in {time.perf_counter() - began:.1f} s")
        questions: dict[str, Callable[[], object]] = {
            "status: counts of states and verdicts, groups": lambda: overview(output),
            "one chart (newest 5,000 images)": lambda: trend_of(read_series(output), "sharpness"),
            "charts of all ten numbers": lambda: charts(output),
        }
        for name, ask in questions.items():
            began = time.perf_counter()
            ask()
            print(f"{name}: {time.perf_counter() - began:.3f} s")


if __name__ == "__main__":
    main()
