"""One bad byte is one bad file: whatever we read back may be anything, and is told in one line."""

import json
import os
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from emcfsys_engine.commands.runs import _row_or_fault
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.hotfolder.ledger import Entry, Ledger, read_ledger
from emcfsys_engine.hotfolder.places import watcher_of
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.jobs.control import daemon_status
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch.start import announce, holder
from emcfsys_engine.model_card import KEY, ModelCard, NetworkSpec, read_card
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import EventWriter, RunFinished, RunStarted, StepDone
from emcfsys_engine.run.folder import Run, list_runs, new_run
from emcfsys_engine.run.lines import RunLines
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.settings import load_config
from emcfsys_engine.tools.report.summary import read_summary
from emcfsys_tui.engine.runs_reader import RunsReader
from emcfsys_tui.settings import Memory, load_settings, pin_runs, pinned_runs, remembered
from tests.thorough import tries

_TOML = '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "i"\nmasks = "m"\n'
_NONSENSE = (
    b"", b"null", b"[]", b"{}", b"7", b'"x"', b"\0" * 40, b"\xff\xfe\x80", b"[" * 100_000,
    b'{"a":' * 20_000, b"1e999", b'{"pid": 1e308}', b'{"format": 99}', b'{"format": "x"}',
    b'{"pid": -1, "start_ticks": 0, "boot": "", "worker": 99999999999999999999}',
    b'{"token": "\xed\xb3\xbf"}', b'{"token": "\\udcff\\u0000"}', b"{" * 65_536,
    b'{"token": "", "events_bytes": -5}', b'{"token": "", "events_bytes": 9999999999999}',
)  # fmt: skip

_WORDS = (b"null", b"-1", b"1e308", b"[", b'"', b"{", b"\0", b"\\ud800")


class House:
    """One of each file of ours, and everybody who reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        (folder / "project.toml").write_text(_TOML)
        for name in ("i", "m"):
            (folder / name).mkdir()
        run = self.run = new_run(folder / "runs", TrainRequest(), project=load_project(folder))
        announce(run, "token")
        run.ask("stop")
        with EventWriter(run.events_file) as events:
            events.write(RunStarted(run=run.id, does="train"))
            events.write(StepDone(step=1, loss=0.5, learning_rate=0.1, seconds=0.01))
            events.write(RunFinished(reason="steps", step=1))
        run.exit_file.write_text('{"format": 1, "exit_code": 0, "start": "token"}')
        run.lock_file.write_text('{"pid": 1, "start_ticks": 1, "boot": "b", "token": "token"}')
        run.plan_file.write_text('{"format": 1, "patch_px": 64}')
        self.out = folder / "out"
        self.out.mkdir()
        ledger = Ledger(self.out, owner="test")
        ledger.record([Entry(path="a.tif", size=1, mtime_ns=1, mask="a.png")])
        ledger.close()
        card = ModelCard(
            network=NetworkSpec(head="unet", backbone="resnet18", num_classes=2),
            classes=("a", "b"),
            class_values=(0, 1),
            colours=((0, 0, 0), (9, 9, 9)),
            patch_px=64,
        )
        text = msgspec.json.encode(card).decode()
        save_file({"x": np.zeros(3, np.float32)}, folder / "m.safetensors", {KEY: text})
        with Queue.open(self.state) as queue:
            queue.add(run.folder, project_name="p", cpus=1)
        (self.state / "interface.json").write_bytes(msgspec.json.encode(Memory()))
        pin_runs(folder, ["run-0001"])
        (self.state / "daemon.lock").write_text('{"pid": 1}')
        (folder / "config.toml").write_text("[jobs]\ngrace_s = 3\n")

    def readers(self) -> dict[Path, Callable[[], object]]:
        """Return who reads which file."""
        run = self.run
        files = (
            run.record_file, run.start_file, run.ask_file, run.exit_file, run.lock_file,
            run.events_file, run.plan_file, run.log_file,
        )  # fmt: skip
        return {
            **dict.fromkeys(files, self.read_run),
            self.folder / "m.safetensors": lambda: read_card(self.folder / "m.safetensors"),
            self.folder / "project.toml": lambda: load_project(self.folder),
            self.folder / "config.toml": lambda: load_config(self.folder / "config.toml"),
            self.state / "interface.json": remembered,
            self.state / "pins.json": lambda: pinned_runs(self.folder),
            self.state / "interface.toml": load_settings,
            self.state / "daemon.lock": lambda: daemon_status(self.state),
            self.out / ".emcfsys" / "watch.lock": lambda: watcher_of(self.out),
            self.out / ".emcfsys" / "ledger.sqlite": self.read_ledger,
            self.out / ".emcfsys" / "outputs.jsonl": lambda: OutputBook(self.out),
            self.state / "queue.sqlite": self.read_queue,
        }

    def read_run(self) -> None:
        """Ask a run all that lists, reports and the daemon ask; the others beside it are listed."""
        run = Run(self.run.folder)
        for ask in (run.exit_record, run.asked, run.events, run.state, run.ended, run.distrusted):
            ask()
        assert holder(run) is None or holder(run)
        RunLines(run).new_lines()
        told = [_row_or_fault(one)["run"] for one in list_runs(self.folder)]
        assert told == [run.id] * os.path.lexists(run.record_file)
        shown = RunsReader(self.folder).read()
        assert shown is not None
        assert [row.id for row in shown.runs] == told
        read_summary(run)
        run.record()

    def read_ledger(self) -> None:
        """Look at the ledger as `--status` does, then take it as a watch does."""
        try:
            read_ledger(self.out)
        finally:
            ledger = Ledger(self.out, owner="test")
            ledger.entries()
            ledger.due()
            ledger.close()

    def read_queue(self) -> None:
        """List the queue as `jobs` does, and count what is damaged."""
        with Queue.open(self.state) as queue:
            queue.store.damaged()
            queue.list()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A house whose state is the test's own."""
    monkeypatch.setenv("EMCFSYS_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return House(tmp_path)


def _read(reader: Callable[[], object]) -> None:
    """Read; a refusal is one line a fault."""
    try:
        reader()
    except EmcfError as error:
        faults = getattr(error, "faults", (error,))  # of a project: a line each
        assert len(str(error).splitlines()) == len(faults), error
        assert str(error).isprintable() or "\n" in str(error)


def _mutated(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 9)))
        elif kind == 3:
            data[at:at] = rng.choice(
                (b"null", b"-1", b"1e308", b"[", b'"', b"{", b"\0", b"\\ud800")
            )
        elif kind == 4:
            del data[at : at + rng.randint(1, 30)]
        else:
            other = rng.randrange(len(data) + 1)
            data[at:at] = data[other : other + 40]
    return bytes(data)


def test_nonsense_in_any_file_of_ours_is_one_line_and_harms_nothing_else(house: House) -> None:
    for file, reader in house.readers().items():
        whole = file.read_bytes() if file.exists() else None
        for content in _NONSENSE:
            file.write_bytes(content)
            _read(reader)
        file.unlink(missing_ok=True)
        for make in (
            lambda at: at.symlink_to(at),
            os.mkfifo,
            lambda at: at.symlink_to("/dev/zero"),
        ):
            make(file)
            _read(reader)
            file.unlink(missing_ok=True)
        file.mkdir()
        _read(reader)
        file.rmdir()
        for aside in file.parent.glob("*.damaged-*"):
            aside.unlink(missing_ok=True)
        if whole is not None:
            file.write_bytes(whole)


def _fuzz(house: House, count: int, seed: int) -> None:
    rng = random.Random(seed)
    wholes = {file: file.read_bytes() for file in house.readers() if file.exists()}
    for file, reader in house.readers().items():
        whole = wholes.get(file, b'theme = "x"\n[keys]\na = "b"\n')
        few = max(1, count // 10) if file.suffix == ".sqlite" else count  # they are slow to open
        for _ in range(few):
            file.write_bytes(_mutated(whole, rng))
            _read(reader)
            for aside in (*file.parent.glob("*damaged-*"), *file.parent.glob("*.sqlite-*")):
                aside.unlink(missing_ok=True)
        file.unlink(missing_ok=True) if file not in wholes else file.write_bytes(whole)


def test_mutated_files_of_ours_are_read_or_refused_in_a_line(house: House) -> None:
    _fuzz(house, 25, seed=1)


@pytest.mark.long
def test_thousands_of_mutated_files_of_ours_are_read_or_refused_in_a_line(house: House) -> None:
    _fuzz(house, tries(12_000, 50_000) // len(house.readers()), seed=2)


@pytest.mark.parametrize("value", ["x", b"\xff", None, 1e308, "[" * 50_000, "{", -5, "a\0b"])
def test_a_damaged_row_hides_no_other_job(house: House, value: object) -> None:
    other = new_run(house.folder / "runs", TrainRequest())
    with Queue.open(house.state) as queue:
        number = queue.add(other.folder, project_name="other", cpus=1)
        database = sqlite3.connect(house.state / "queue.sqlite", isolation_level=None)
        names = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
        for name in names[1:]:
            (kept,) = database.execute(f'SELECT "{name}" FROM jobs WHERE id = 1').fetchone()
            try:
                database.execute(f'UPDATE jobs SET "{name}" = ? WHERE id = 1', (value,))
            except sqlite3.IntegrityError:
                continue
            listed = [job.id for job in queue.list()]
            assert number in listed, name
            assert sorted({*listed, *queue.store.damaged()}) == [1, number], name
            database.execute(f'UPDATE jobs SET "{name}" = ? WHERE id = 1', (kept,))
        database.close()


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["a", "a"]},
        {"classes": ["a", ""]},
        {"classes": ["a", "b\0"]},
        {"classes": ["a"]},
        {"class_values": [0, 300]},
        {"class_values": [1, 1]},
        {"colours": [[0, 0, 0]]},
        {"colours": [[0, 0, 0], [0, 0, 999]]},
        {"pixel_nm": 1e308},
        {"pixel_nm": -1},
        {"patch_px": 0},
        {"normaliser": {"low_percentile": 99, "high_percentile": 1}},
        {"network": {"head": "unet", "backbone": "resnet18", "num_classes": 10**12}},
        {"format": None},
        {"format": {"a": 1}},
        {"statistics": []},
    ],
)
def test_a_model_header_of_nonsense_is_refused_in_a_line(
    house: House, change: dict[str, object]
) -> None:
    file = house.folder / "m.safetensors"
    whole = json.loads(msgspec.json.encode(read_card(file)))
    save_file({"x": np.zeros(3, np.float32)}, file, {KEY: json.dumps({**whole, **change})})
    with pytest.raises(EmcfError) as caught:
        read_card(file)
    assert len(str(caught.value).splitlines()) == 1


def test_a_project_nested_four_hundred_deep_is_refused_in_a_line(house: House) -> None:
    (house.folder / "project.toml").write_text(_TOML + "x = " + "[" * 400 + "]" * 400 + "\n")
    with pytest.raises(EmcfError):
        load_project(house.folder)
    (house.folder / "project.toml").write_text(_TOML + "x = " + "[" * 4000 + "]" * 4000 + "\n")
    with pytest.raises(EmcfError, match="nested too deep"):
        load_project(house.folder)


_MANY_DIGITS = "steps = " + "9" * 5000


@pytest.mark.parametrize("name", ["project.toml", "config.toml"])
def test_a_number_of_thousands_of_digits_is_refused_in_a_line(house: House, name: str) -> None:
    file = house.folder / name
    file.write_text(f"{file.read_text()}\n[many]\n{_MANY_DIGITS}\n")
    with pytest.raises(EmcfError, match="is no valid TOML: Exceeds the limit") as caught:
        load_project(house.folder) if name == "project.toml" else load_config(file)
    assert len(str(caught.value).splitlines()) == 1


def test_a_number_of_thousands_of_digits_after_set_is_no_number(house: House) -> None:
    with pytest.raises(EmcfError, match=r"training\.steps"):
        load_project(house.folder, ["training." + _MANY_DIGITS.replace(" ", "")])
