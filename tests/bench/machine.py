"""One line that says where a timing was taken."""

import platform
import sys
from datetime import date
from importlib import metadata
from pathlib import Path

import psutil


def machine_line(*packages: str) -> str:
    """Return processor, cores, memory, versions and the command."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    names = packages or ("torch", "timm", "segmentation-models-pytorch")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    command = f"python {Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip()
    return (
        f"{date.today()} {_processor()}, {cores} cores, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, {versions}\n$ {command}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
