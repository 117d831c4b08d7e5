"""A worker hears who ends it, keeps the memory that it frees, and gives it back when it waits."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="only glibc can be told"
)

_CODE = """
import resource, sys
import psutil, torch
from emcfsys_engine.learn.run_context import give_back_freed_memory, keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def step():
    made = [torch.empty(mib * 2**20, dtype=torch.uint8).fill_(1) for mib in (64, 32, 8, 48, 64)]
    del made[1:4]
    [torch.empty(mib * 2**20, dtype=torch.uint8).fill_(1) for mib in (8, 33, 64)]

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(12):
    step()
before = pages()
for _ in range(3):
    step()
touched = pages() - before
held = psutil.Process().memory_info().rss
give_back_freed_memory()
print(touched, held - psutil.Process().memory_info().rss)
"""


def _numbers(how: str) -> tuple[int, int]:
    command = [sys.executable, "-c", _CODE, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    touched, given_back = map(int, done.stdout.split())
    return touched, given_back


@pytest.mark.long
def test_steps_after_the_first_touch_no_new_pages() -> None:
    touched, given_back = _numbers("kept")
    assert touched < 1000
    assert given_back > 200 * 2**20
    assert _numbers("as it is")[0] > 100_000  # of 4 KiB


_ASKED = """
import os, resource, signal, sys
from pathlib import Path
from emcfsys_engine.launch.start import Place
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest

run = new_run(Path(sys.argv[1]), TrainRequest())
worker = RunContext(run, None, Place())
if sys.argv[2:]:
    run.ask(sys.argv[2])
os.kill(os.getpid(), signal.SIGTERM)
heard = worker.stop_request() if sys.argv[2:] else "nothing yet"
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # no file can be opened
print(heard, worker.stop_request(), sep=", ")
"""


@pytest.mark.parametrize(
    ("words", "told"), [([], "nothing yet, terminated"), (["stop"], "stop, stop")]
)
def test_an_end_is_heard_while_the_disk_of_the_run_does_not_answer(
    tmp_path: Path, words: list[str], told: str
) -> None:
    """A request ended the training there by an error, and its last steps were not saved."""
    command = [sys.executable, "-c", _ASKED, str(tmp_path), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == told
