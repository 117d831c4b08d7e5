"""A list of shards is fair, is written once, and says what is wrong with it."""

import errno
import heapq
import json
import os
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.errors import InputError, RunFolderError
from emcfsys_engine.run import shards as module
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.run.shards import SHARDS_A_TASK, ShardItem, Shards, deal, digest_of, unfinished


def _request(shards: int = 2) -> PredictRequest:
    return PredictRequest(model="/m", inputs=("/in",), out="/out", shards=shards)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return new_run(tmp_path / ".emcfsys", _request())


def items_of(number: int) -> list[ShardItem]:
    return [
        ShardItem(n, f"/in/{n}.tif", None, f"/out/{n}.png", 9, n, n == 2) for n in range(number)
    ]


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60), st.integers(1, 12))
def test_every_image_is_dealt_once_and_no_shard_has_a_third_more_than_is_fair(
    pixels: list[int], number: int
) -> None:
    dealt = deal(pixels, number)
    assert sorted(n for shard in dealt for n in shard) == list(range(len(pixels)))
    assert all(shard == sorted(shard) and shard for shard in dealt)
    head = 1 << 16
    sums = [sum(pixels[n] + head for n in shard) for shard in dealt]
    assert sums == sorted(sums, reverse=True)
    fair = max(sum(sums) / len(dealt), max(pixels) + head)
    assert max(sums) <= fair + max(pixels) + head
    assert deal(pixels, number) == dealt


@pytest.mark.parametrize("seed", range(5))
def test_thousands_of_tasks_on_unlike_nodes_end_within_a_third_of_the_ideal_and_none_starves(
    seed: int,
) -> None:
    rng = random.Random(seed)
    pixels = [int(rng.lognormvariate(14, 1)) for _ in range(60_000)]
    places = 250
    dealt = deal(pixels, places * SHARDS_A_TASK)
    # Images a second of a node: a tenth of them are half as fast as the others.
    speeds = [0.5 if rng.random() < 0.1 else 1.0 for _ in range(places)]
    ideal = sum(pixels) / sum(speeds)
    makespan, starts = _simulated(dealt, pixels, speeds, rng)
    assert makespan <= 1.3 * ideal
    assert max(starts) <= 12


def _simulated(
    dealt: list[list[int]], pixels: list[int], speeds: list[float], rng: random.Random
) -> tuple[float, list[int]]:
    """Run all shards, in the order of the list, on nodes that fail and are preempted.

    One start in twenty ends somewhere: what is done is kept, the image under way is lost, and the
    shard goes to the end of the line, as Slurm's requeue does it.
    """
    left = [list(shard) for shard in dealt]
    waiting = list(range(len(dealt)))
    free = [(0.0, node) for node in range(len(speeds))]
    heapq.heapify(free)
    starts = [0] * len(dealt)
    end = 0.0
    while waiting:
        now, node = heapq.heappop(free)
        shard = waiting.pop(0)
        starts[shard] += 1
        work = left[shard]
        if rng.random() < 0.05:
            done = rng.randrange(len(work))
            spent = sum(pixels[n] for n in work[: done + 1])
            left[shard] = work[done:]
            waiting.append(shard)
        else:
            spent = sum(pixels[n] for n in work)
            left[shard] = []
        now += spent / speeds[node]
        end = max(end, now)
        heapq.heappush(free, (now, node))
    assert not any(left)
    return end, starts


def test_a_list_is_read_back_shard_by_shard_and_is_never_written_twice(run: Run) -> None:
    shards = Shards(run)
    assert shards.header() is None
    written = shards.write(items_of(7), 2)
    assert shards.header() == written
    assert written.num_images == 7
    assert [share.images for share in written.shards] == [3, 3]
    every = [item for share in (*written.shards, written.there) for item in shards.items(share)]
    assert sorted(every, key=lambda item: item.number) == items_of(7)
    assert [item.number for item in shards.items(written.there)] == [2]
    with pytest.raises(RunFolderError, match="never changed"):
        shards.write(items_of(3), 2)


def test_names_of_any_bytes_come_back(run: Run) -> None:
    name, mask = os.fsdecode(b"/in/\xff\xfe.tif"), os.fsdecode(b"/out/\xff.png")
    header = Shards(run).write([ShardItem(0, name, 3, mask, 1, 1)], 1)
    (item,) = Shards(run).items(header.shards[0])
    assert os.fsencode(item.image) == b"/in/\xff\xfe.tif"
    assert os.fsencode(item.mask) == b"/out/\xff.png"


def test_a_list_of_another_version_is_named_with_its_remedy(run: Run) -> None:
    shards = Shards(run)
    shards.write(items_of(3), 2)
    first, _, rest = shards.file.read_bytes().partition(b"\n")
    newer = json.loads(first) | {"format": 3, "shards": "of another kind"}
    shards.file.write_bytes(json.dumps(newer).encode() + b"\n" + rest)
    with pytest.raises(RunFolderError, match="has format 3, this version knows 2.*Update"):
        shards.header()


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff\n", b'{"format": 1}\n', b"[1]\n"])
def test_a_damaged_list_is_named_with_its_remedy(run: Run, content: bytes) -> None:
    shards = Shards(run)
    shards.folder.mkdir()
    shards.file.write_bytes(content)
    with pytest.raises(RunFolderError, match="Predict anew"):
        shards.header()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_list_that_is_no_file_is_named_and_the_same_command_lists_anew(
    run: Run, kind: str
) -> None:
    shards = Shards(run)
    shards.write(items_of(3), 1)
    shards.file.rename(shards.folder / "other")
    if kind == "folder":
        shards.file.mkdir()
    else:
        shards.file.symlink_to(shards.folder / "other")
    with pytest.raises(RunFolderError, match="is no file of ours.*Predict anew"):
        shards.header()
    assert unfinished(run.folder.parent, _request()) is None


def test_a_list_that_was_cut_short_is_named(run: Run) -> None:
    shards = Shards(run)
    header = shards.write(items_of(7), 1)
    whole = shards.file.read_bytes()
    shards.file.write_bytes(whole[:-150])
    with pytest.raises(RunFolderError, match="was cut short.*Predict anew"):
        shards.header()
    with pytest.raises(RunFolderError, match=f"damaged. Remove {run.folder}, then predict anew"):
        list(shards.items(header.shards[0]))
    assert unfinished(run.folder.parent, _request()) is None  # the same command lists anew
    shards.file.write_bytes(whole)
    assert unfinished(run.folder.parent, _request()) is not None


def test_a_list_of_another_request_is_refused(run: Run, tmp_path: Path) -> None:
    Shards(run).write(items_of(3), 2)
    other = new_run(tmp_path / ".emcfsys", _request(shards=3))
    (other.folder / "shards").mkdir()
    Shards(other).file.write_bytes(Shards(run).file.read_bytes())
    with pytest.raises(RunFolderError, match="another request"):
        Shards(other).header()


def test_a_shard_has_one_claimant(run: Run) -> None:
    shards = Shards(run)
    shards.write(items_of(3), 2)
    lock = shards.claim(0)
    assert lock is not None
    assert shards.claim(0) is None
    other = shards.claim(1)
    assert other is not None
    os.close(lock)
    again = shards.claim(0)
    assert again is not None
    os.close(again)
    os.close(other)


def test_on_a_disk_without_locks_the_number_is_the_claim_and_other_faults_are_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards(run)
    shards.write(items_of(3), 2)
    for number, is_claimed in ((errno.ENOLCK, True), (errno.EIO, False)):

        def flock(descriptor: int, how: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(module.fcntl, "flock", flock)
        if is_claimed:
            lock = shards.claim(0)
            assert lock is not None
            os.close(lock)
        else:
            with pytest.raises(OSError, match="Input/output"):
                shards.claim(0)


@pytest.mark.parametrize("mask", ["/home/me/x.png", "/out/../home/x.png", "/outer/x.png"])
def test_a_list_that_names_a_mask_outside_the_output_folder_is_refused(run: Run, mask: str) -> None:
    shards = Shards(run)
    header = shards.write([ShardItem(0, "/in/0.tif", None, mask, 9, 9)], 1)
    with pytest.raises(RunFolderError, match="which is not below /out"):
        list(shards.items(header.shards[0]))


def test_the_same_request_goes_on_and_a_living_one_is_refused(run: Run) -> None:
    request = _request()
    assert unfinished(run.folder.parent, request) is None  # no list yet: nothing to go on with
    Shards(run).write(items_of(3), 2)
    found = unfinished(run.folder.parent, request)
    assert found is not None and found.id == run.id
    assert unfinished(run.folder.parent, _request(shards=3)) is None
    lock = Shards(run).claim(0)
    with pytest.raises(InputError, match="predicts into it, in shards, now"):
        unfinished(run.folder.parent, request)
    with pytest.raises(InputError, match="asked for something else.*--out"):
        unfinished(run.folder.parent, _request(shards=3))
    (Shards(run).folder / "00000.lock").rename(run.lock_file)
    with pytest.raises(InputError, match="predicts into it, in shards, now"):
        unfinished(run.folder.parent, request)
    assert lock is not None
    os.close(lock)


def test_a_request_is_known_again_by_a_version_that_knows_more_of_it() -> None:
    assert digest_of(_request()) == "aa8cae8b3e7246177bff2b6d6a80cb97"  # as older versions wrote it

    class Inner(msgspec.Struct, kw_only=True):
        name: str

    class Newer(Inner, kw_only=True):
        level: int = 3
        more: dict[str, int] = msgspec.field(default_factory=dict)

    class Asked(msgspec.Struct):
        inner: tuple[Inner, ...]

    known = digest_of(Asked((Inner(name="a"),)))
    assert digest_of(Asked((Newer(name="a"),))) == known
    assert digest_of(Asked((Newer(name="a", level=4),))) != known
