"""The scan gives out each file once it has settled, by our own clock alone."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from emcfsys_engine.hotfolder import scan
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from emcfsys_engine.hotfolder.scan import MAX_ATTEMPTS, FoundFile, Rules, Scanner
from emcfsys_engine.images.own_files import digest_of
from tests.hotfolder.test_structure import FORMATS

PNG = FORMATS["a.png"]


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A watched folder, its scanner and a clock."""

    def __init__(self, root: Path, **rules: object) -> None:
        self.root = root / "in"
        self.root.mkdir()
        self.clock = Clock()
        settings: dict[str, object] = {"settle_s": 2.0, "closed_settle_s": 0.0, **rules}
        self.rules = Rules(root=self.root, output=self.root / "out", **settings)  # type: ignore[arg-type]
        self.scanner = Scanner(self.rules, {}, self.clock)

    def write(self, name: str, content: bytes = PNG) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def ready(self) -> list[str]:
        return [seen.path for seen in self.scanner.ready(100)]

    def finish(self, seen: FoundFile, state: str = "done", attempts: int = 0) -> None:
        self.scanner.done(
            Entry(
                path=seen.path,
                size=seen.size,
                mtime_ns=seen.mtime_ns,
                state=state,  # type: ignore[arg-type]
                ctime_ns=seen.ctime_ns,
                attempts=attempts,
            )
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_file_is_ready_after_the_settle_time_and_given_out_until_it_is_done(
    bench: Bench,
) -> None:
    bench.write("a.png")
    bench.scanner.scan()
    assert bench.ready() == []
    bench.clock.now += 2.0
    assert bench.ready() == ["a.png"]
    bench.finish(bench.scanner.ready(1)[0])
    bench.scanner.scan()
    assert bench.ready() == []
    assert not bench.scanner.is_settling()


def test_growth_starts_the_wait_anew(bench: Bench) -> None:
    bench.write("a.mrc", b"x" * 100)
    bench.scanner.scan()
    bench.clock.now += 1.9
    bench.write("a.mrc", FORMATS["a.mrc"])
    bench.scanner.scan()
    bench.clock.now += 1.9
    assert bench.ready() == []
    bench.clock.now += 0.2
    assert bench.ready() == ["a.mrc"]


def test_a_closed_and_whole_file_is_ready_at_once(bench: Bench) -> None:
    bench.write("a.png")
    bench.scanner.hint("a.png", closed=True)
    assert bench.ready() == ["a.png"]


def test_a_closed_file_whose_structure_is_not_whole_waits(bench: Bench) -> None:
    bench.write("a.png", PNG[:-20])
    bench.scanner.hint("a.png", closed=True)
    assert bench.ready() == []
    bench.clock.now += 20
    assert bench.ready() == []
    bench.clock.now += 20  # it will never be whole: the attempt tells the person
    assert bench.ready() == ["a.png"]


def test_a_format_that_does_not_tell_waits_even_when_closed(bench: Bench) -> None:
    bench.write("a.dm4", b"\0" * 500)
    bench.scanner.hint("a.dm4", closed=True)
    assert bench.ready() == []
    bench.clock.now += 2.0
    assert bench.ready() == ["a.dm4"]


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir/a.tif/THUMB_M.jpg",
        "__MACOSX/a.tif",
        ".a.png",
        "a.png.part",
        "a.tmp",
        "~a.png",
        "a.png~",
        "a.txt",
        ".hidden/a.png",
        "out/a.png",
    ],
)
def test_what_is_no_image_or_not_finished_or_ours_is_left_alone(bench: Bench, name: str) -> None:
    bench.write(name)
    bench.scanner.scan()
    bench.scanner.hint(name, closed=True)
    bench.clock.now += 60
    assert bench.ready() == []


def test_ignore_patterns_and_small_files_are_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ignore=("*_raw.png", "atlas/*"))
    for name in ("a_raw.png", "atlas/b.png", "c.png"):
        bench.write(name)
    bench.write("d.png", PNG[:10])
    bench.scanner.scan()
    bench.clock.now += 5
    assert bench.ready() == ["c.png"]


@pytest.mark.parametrize("skew_s", [-3600, 3600, -(10**8)])
def test_a_wrong_clock_of_the_microscope_changes_nothing(bench: Bench, skew_s: int) -> None:
    file = bench.write("a.png")
    status = file.stat()
    os.utime(file, (status.st_atime, max(0, status.st_mtime + skew_s)))
    bench.scanner.scan()
    bench.clock.now += 2.0
    assert bench.ready() == ["a.png"]


def test_a_root_that_is_gone_is_offline_and_forgets_nothing(bench: Bench) -> None:
    bench.write("a.png")
    bench.scanner.scan()
    bench.clock.now += 2.0
    bench.finish(bench.scanner.ready(1)[0])
    moved = bench.root.rename(bench.root.with_name("away"))
    bench.scanner.scan()
    assert bench.scanner.offline
    moved.rename(bench.root)
    bench.scanner.scan()
    assert not bench.scanner.offline
    assert not bench.scanner.is_settling()


def test_a_root_that_goes_while_it_is_listed_is_offline_and_forgets_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("a.png")
    bench.scanner.scan()

    @contextmanager
    def listing(_folder: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        def entries() -> Iterator[os.DirEntry[str]]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
            yield

        yield entries()

    with monkeypatch.context() as patch:
        patch.setattr(scan, "os", SimpleNamespace(**{**vars(os), "scandir": listing}))
        bench.scanner.scan()
    assert bench.scanner.offline
    assert bench.scanner.is_settling()
    bench.scanner.scan()
    assert not bench.scanner.offline


def test_a_folder_that_does_not_answer_is_told_also_while_the_output_does_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were nowhere then, and so the same: its images were passed over without a word."""
    bench.write("inner/a.png")
    bench.write("b.png")

    def failing(place: str, **_words: object) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO), place)

    with monkeypatch.context() as patch:
        patch.setattr(scan, "os", SimpleNamespace(**{**vars(os), "stat": failing}))
        bench.scanner.scan()
    assert bench.scanner.unseen == {"inner": "Input/output error"}
    bench.scanner.scan()
    assert {*bench.scanner.settling} == {"inner/a.png", "b.png"}
    assert not bench.scanner.unseen


def test_a_rewritten_file_is_ready_again(bench: Bench) -> None:
    bench.write("a.png")
    bench.scanner.hint("a.png", closed=True)
    bench.finish(bench.scanner.ready(1)[0])
    bench.write("a.png", PNG + b"more")
    os.utime(bench.root / "a.png", ns=(1, 1))
    bench.scanner.hint("a.png", closed=True)
    assert bench.scanner.is_settling()


def test_a_failed_file_is_tried_again_later_and_then_no_more(bench: Bench) -> None:
    bench.write("a.png")
    bench.scanner.hint("a.png", closed=True)
    waited_s: list[int] = []
    for attempt in range(1, MAX_ATTEMPTS):
        (seen,) = bench.scanner.ready(1)
        bench.finish(seen, "trying", attempt)
        assert bench.ready() == []
        waited_s.append(0)
        while not bench.ready():
            bench.clock.now += 5
            waited_s[-1] += 5
            bench.scanner.scan()
    assert waited_s == sorted(waited_s)
    assert 3 * 3600 < sum(waited_s) < 4 * 3600
    bench.finish(bench.scanner.ready(1)[0], "failed", MAX_ATTEMPTS)
    bench.scanner.scan()
    bench.clock.now += 36_000
    assert bench.ready() == []


def test_a_failed_file_is_tried_anew_when_its_permissions_change(bench: Bench) -> None:
    file = bench.write("a.png")
    bench.scanner.hint("a.png", closed=True)
    for state, attempt in (("trying", 1), ("failed", MAX_ATTEMPTS)):
        (seen,) = bench.scanner.ready(1)
        bench.finish(seen, state, attempt)
        bench.scanner.scan()
        assert bench.ready() == []
        changed = file.stat().st_ctime_ns
        while file.stat().st_ctime_ns == changed:  # the clock of files is a coarse one
            file.chmod(0o600 if file.stat().st_mode & 0o077 else 0o644)
        bench.scanner.scan()
        bench.clock.now += 5
        assert bench.ready() == ["a.png"]
        assert bench.scanner.known["a.png"].attempts == 0


def test_the_order_is_oldest_or_newest_first(tmp_path: Path) -> None:
    for number, newest in enumerate((False, True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        bench = Bench(folder, newest_first=newest)
        for index, name in enumerate(("b.png", "a.png", "c.png")):
            os.utime(bench.write(name), (index, index))
        bench.scanner.scan()
        bench.clock.now += 5
        expected = ["b.png", "a.png", "c.png"]
        assert bench.ready() == (expected[::-1] if newest else expected)


def test_names_may_hold_anything(bench: Bench) -> None:
    names = ["with space.png", "new\nline.png", "ünï.png", "esc\x1b[31m.png", "sub dir/x.png"]
    for name in names:
        bench.write(name)
    (Path(os.fsdecode(os.fsencode(bench.root) + b"/bad\xff.png"))).write_bytes(PNG)
    bench.scanner.scan()
    bench.clock.now += 5
    assert sorted(bench.ready()) == sorted([*names, "bad\udcff.png"])


def test_slow_scans_are_done_less_often(bench: Bench) -> None:
    assert bench.scanner.interval_s(5.0) == 5.0
    bench.scanner.scan_s = 0.4
    assert bench.scanner.interval_s(5.0) == 100.0


@pytest.mark.parametrize("name", ["a.GIF", "a.webp", "a.avif", "a.jp2", "a.j2k", "a.pgm", "a.ppm"])
def test_every_kind_of_picture_that_is_read_is_watched(bench: Bench, name: str) -> None:
    bench.write(name, b"content decides later" * 9)
    bench.scanner.scan()
    bench.clock.now += 2.1
    assert bench.ready() == [name]
    assert bench.scanner.left_out == set()


def test_kinds_of_pictures_that_nobody_reads_are_noted_and_not_waited_for(bench: Bench) -> None:
    for name in ("a.heic", "b.PSD", "c.heic", "notes.txt"):
        bench.write(name)
    bench.scanner.scan()
    assert bench.scanner.left_out == {".heic", ".psd"}
    assert not bench.scanner.settling


def known_by_content(bench: Bench, name: str) -> Path:
    """Write an image and have it done, with its digest."""
    file = bench.write(name)
    bench.scanner.scan()
    bench.clock.now += 2.0
    (seen,) = bench.scanner.ready(1)
    bench.finish(seen)
    entry = msgspec.structs.replace(
        bench.scanner.known[name], digest=digest_of(file, len(PNG)), ctime_ns=seen.ctime_ns
    )
    bench.scanner.known[name] = entry
    return file


def test_an_image_replaced_by_another_of_the_same_name_size_and_time_is_seen(
    bench: Bench,
) -> None:
    file = known_by_content(bench, "a.png")
    before = file.stat()
    other = bench.root.parent / "other.png"
    other.write_bytes(PNG[:-20] + b"x" * 8 + PNG[-12:])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    bench.scanner.scan()
    assert bench.scanner.look_closer(1.0) == []
    bench.clock.now += 2.0
    assert bench.ready() == ["a.png"]


def test_a_file_whose_rights_or_links_changed_is_compared_once_and_not_done_again(
    bench: Bench,
) -> None:
    file = known_by_content(bench, "a.png")
    os.link(file, bench.root.parent / "backup.png")
    bench.scanner.scan()
    (entry,) = bench.scanner.look_closer(1.0)
    assert entry.ctime_ns == file.stat().st_ctime_ns
    bench.scanner.scan()
    assert bench.scanner.look_closer(1.0) == []
    assert not bench.scanner.settling


@pytest.mark.parametrize("year", [1601, 1969, 2263, 2400])
def test_a_file_of_any_year_is_noted_and_known_again(bench: Bench, year: int) -> None:
    file = bench.write("a.png")
    seconds = (year - 1970) * 31_556_952
    os.utime(file, ns=(seconds * 10**9, seconds * 10**9))
    bench.scanner.scan()
    bench.clock.now += 2.0
    (seen,) = bench.scanner.ready(1)
    bench.finish(seen)
    ledger = Ledger(file.parent.parent / "noted", owner="run-1")
    ledger.record(bench.scanner.known.values())
    bench.scanner.known = ledger.entries()
    ledger.close()
    bench.scanner.scan()
    bench.clock.now += 2.0
    assert bench.ready() == []
    os.utime(file)
    bench.scanner.scan()
    bench.clock.now += 2.0
    assert bench.ready() == ["a.png"]


def test_texts_beside_images_are_known_and_are_no_images(bench: Bench) -> None:
    for name in ("a.png", "s/a.txt", "a.HDR", "a.csv", ".b.txt"):
        bench.write(name)
    bench.scanner.scan()
    assert bench.scanner.side_cars == {"s/a.txt", "a.HDR"}
    assert set(bench.scanner.settling) == {"a.png"}
