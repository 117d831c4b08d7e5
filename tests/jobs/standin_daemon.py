"""The real daemon with the stand-in worker: `python standin_daemon.py STATE_FOLDER [--ready=FD]`.

The folder's settings.toml is its config; gpus.json, where there is one, is what NVML would say.
"""

import os
import sys
from pathlib import Path

import msgspec

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.jobs.control import log
from emcfsys_engine.jobs.daemon import serve
from emcfsys_engine.jobs.machine import Gpu, Machine
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.settings import load_config

STANDIN = Path(__file__).with_name("standin.py")


class FileSource:
    """GPUs as a file says: the seam where NVML is."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> list[Gpu]:
        """Return what the file says now; no file, no GPU."""
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=list[Gpu])
        except FileNotFoundError:
            return []

    def fault(self) -> str:
        """Return nothing: these GPUs never break."""
        return ""


def machine_of(folder: Path) -> Machine:
    """Return the machine that a test described in the state folder's neighbour."""
    place = folder.with_name(folder.name + "-machine")
    config = load_config(place / "settings.toml")
    return Machine(settings=config, source=FileSource(place / "gpus.json"))


def main() -> int:
    """Serve until told to leave."""
    folder = Path(sys.argv[1])
    ready = [int(word[8:]) for word in sys.argv[2:] if word.startswith("--ready=")]
    try:
        with Queue.open(folder, machine=machine_of(folder)) as queue:
            worker = [sys.executable, str(STANDIN)]
            serve(queue, worker=worker, ready=ready[0] if ready else None)
    except EmcfError as error:
        if ready:
            os.write(ready[0], f"{error}\n".encode())
        log(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
