"""What a summary of 10⁸ measured objects costs: python -m tests.bench.summary [ROWS]."""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow
import pyarrow.parquet

from emcfsys_engine.tools.measure.parts import PARTS_FILE, PartsList
from tests.bench.machine import machine_line

_ROWS_A_PART = 250_000  # as measure writes them


def main(num_rows: int) -> None:
    """Write tables in parts by chance, then summarise them by the command, and print one table."""
    with tempfile.TemporaryDirectory(prefix="emcfsys-bench-") as place:
        out = Path(place)
        _write(out, num_rows)
        began = time.perf_counter()
        command = [sys.executable, "-m", "emcfsys_engine", "measure", str(out), "--summary"]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(machine_line("duckdb", "pyarrow"))
    print(f"{num_rows:,} objects: {seconds:.1f} s (10 s), {peak:.2f} GiB (2 GiB)")


def _write(out: Path, num_rows: int) -> None:
    (out / "parts").mkdir()
    rng = np.random.default_rng(0)
    objects: list[str] = []
    for number in range(-(-num_rows // _ROWS_A_PART)):
        count = min(_ROWS_A_PART, num_rows - number * _ROWS_A_PART)
        table = {
            "class": np.array(["large", "small"], object)[rng.integers(0, 2, count)],
            "equivalent_diameter_nm": rng.lognormal(4, 0.5, count),
            "area_nm2": rng.lognormal(8, 1.0, count),
            "touches_border": rng.random(count) < 0.1,
        }
        objects.append(f"parts/objects-00000000-{number + 1:06}.parquet")
        pyarrow.parquet.write_table(pyarrow.table(table), out / objects[-1])
    listed = PartsList(
        format=1, unit="nm", num_masks=0, num_objects=num_rows, objects=tuple(objects), images=()
    )
    (out / PARTS_FILE).write_bytes(msgspec.json.encode(listed))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10**8)
