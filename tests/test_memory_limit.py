"""A container's or a Slurm job's memory limit counts, at whichever level of either version."""

from pathlib import Path

import pytest

from emcfsys_engine.memory_limit import memory_bytes

GIB = 2**30


def _machine(folder: Path, group: str, files: dict[str, object]) -> tuple[float, float]:
    """Return total and available GiB of a made machine of 64 GiB, 60 of them free."""
    (folder / "meminfo").write_text(f"MemTotal: {64 << 20} kB\nMemAvailable: {60 << 20} kB\n")
    (folder / "own").write_text(group)
    for name, value in files.items():
        file = folder / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    found = memory_bytes(folder / "groups", folder / "own", folder / "meminfo")
    return found[0] / GIB, found[1] / GIB


def test_without_a_limit_the_machine_is_all(tmp_path: Path) -> None:
    files = {"job/memory.max": "max", "job/memory.current": GIB}
    assert _machine(tmp_path, "0::/job", files) == (64, 60)


@pytest.mark.parametrize("level", ["", "slurm/", "slurm/job_1/step_0/"])
def test_a_limit_of_version_2_counts_at_any_level(tmp_path: Path, level: str) -> None:
    files = {f"{level}memory.max": 8 * GIB, f"{level}memory.current": 3 * GIB}
    files[f"{level}memory.stat"] = f"anon 1\ninactive_file {GIB}"  # type: ignore[assignment]
    assert _machine(tmp_path, "0::/slurm/job_1/step_0", files) == (8, 6)


@pytest.mark.parametrize("level", ["memory/", "memory/slurm/", "memory/slurm/job_1/"])
def test_a_limit_of_version_1_counts_at_any_level(tmp_path: Path, level: str) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    files = dict(zip((level + name for name in names), (16 * GIB, 4 * GIB), strict=True))
    group = "9:cpu:/\n4:cpuset,memory:/slurm/job_1\n0::/\n"
    assert _machine(tmp_path, group, files) == (16, 12)


def test_the_smallest_of_several_limits_counts(tmp_path: Path) -> None:
    files = {"a/memory.max": 20 * GIB, "a/memory.current": 0}
    files |= {"a/b/memory.max": 30 * GIB, "a/b/memory.current": 29 * GIB}
    assert _machine(tmp_path, "0::/a/b", files) == (20, 1)
