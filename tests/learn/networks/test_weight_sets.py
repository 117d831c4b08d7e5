"""Named sets of weights are downloaded once, checked, and refused where something is wrong."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from emcfsys_engine.errors import WeightsError
from emcfsys_engine.learn.networks import weight_sets
from emcfsys_engine.learn.networks.weight_sets import WEIGHT_SETS, fetch
from emcfsys_engine.learn.networks.weights import load_weights
from tests.learn.networks.weight_files import network_of


class _Server(http.server.ThreadingHTTPServer):
    content = b""
    breaks_after: int | None = None
    ranges: list[str]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.server.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as running:
        running.ranges = []
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url_of(server: _Server, name: str = "weights.pth.tar") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{name}"


def test_a_broken_download_goes_on_where_it_stopped(server: _Server, tmp_path: Path) -> None:
    server.content = bytes(range(256)) * 8
    server.breaks_after = 1000
    with pytest.raises(WeightsError, match=r"broke off after 1000 of 2048 bytes"):
        fetch(url_of(server), tmp_path)
    assert not (tmp_path / "weights.pth.tar").exists()
    server.breaks_after = None
    seen: list[tuple[int, int | None]] = []
    file = fetch(url_of(server), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert file.read_bytes() == server.content
    assert server.ranges == ["", "bytes=1000-"]
    assert seen[-1] == (2048, 2048)


def test_a_file_is_downloaded_once_and_its_checksum_kept(server: _Server, tmp_path: Path) -> None:
    server.content = b"weights"
    file = fetch(url_of(server), tmp_path)
    assert fetch(url_of(server), tmp_path) == file
    assert len(server.ranges) == 1
    record = json.loads((tmp_path / "weights.pth.tar.json").read_text())
    assert record["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_two_trainings_that_begin_together_download_a_file_once(
    server: _Server, tmp_path: Path
) -> None:
    server.content = bytes(range(256)) * 8
    files: list[Path] = []
    other = threading.Thread(target=lambda: files.append(fetch(url_of(server), tmp_path)))

    def begin_the_other(done: int, total: int | None) -> None:
        other.start()
        other.join(0.5)  # it waits for us

    files.append(fetch(url_of(server), tmp_path, progress=begin_the_other))
    other.join()
    assert [file.read_bytes() for file in files] == [server.content] * 2
    assert server.ranges == [""]


def test_a_flipped_byte_in_the_cache_is_told(server: _Server, tmp_path: Path) -> None:
    server.content = b"weights"
    fetch(url_of(server), tmp_path).write_bytes(b"weightz")
    with pytest.raises(WeightsError, match="not the file that was downloaded first"):
        fetch(url_of(server), tmp_path)


def test_a_publisher_who_changes_a_file_is_told(server: _Server, tmp_path: Path) -> None:
    server.content = b"weights"
    fetch(url_of(server), tmp_path).unlink()
    server.content = b"others"
    with pytest.raises(WeightsError, match="another file than at the first download"):
        fetch(url_of(server), tmp_path)


def test_a_server_that_is_away_is_told_with_where_to_copy_the_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"cannot be downloaded.*Copy the file to {tmp_path}"):
        fetch("http://127.0.0.1:9/weights.pth.tar", tmp_path)


def test_a_cache_that_cannot_be_written_is_told_with_another(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot be written.*Set XDG_CACHE_HOME"):
        fetch("http://127.0.0.1:9/weights.pth.tar", tmp_path / "file/weights")


def test_a_named_set_is_downloaded_and_loaded(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({f"module.{n}": t for n, t in theirs.items()}, tmp_path / "stand-in")
    server.content = (tmp_path / "stand-in").read_bytes()
    url = WEIGHT_SETS["micronet"].url_for("resnet18").rpartition("/")[2]
    assert url == "resnet18_pretrained_microscopynet_v1.0.pth.tar"
    local = url_of(server, "{encoder}_v{version}.pth.tar")
    monkeypatch.setitem(
        WEIGHT_SETS,
        "micronet",
        weight_sets.WeightSet(
            name="micronet", url=local, licence="MIT", encoders=(("resnet18",) * 2,)
        ),
    )
    network = network_of("resnet18", in_channels=1)
    report = load_weights(network, "micronet")
    assert report.share == 1.0
    assert report.summary.startswith("micronet (MIT): all of the backbone")


def test_the_newer_version_of_a_publication_is_asked_for() -> None:
    assert (
        WEIGHT_SETS["micronet"]
        .url_for("resnet50")
        .endswith("resnet50_pretrained_microscopynet_v1.1.pth.tar")
    )


def test_a_set_without_this_backbone_names_some_it_has() -> None:
    with pytest.raises(WeightsError, match=r"there are none for convnext_tiny\. Choose a backbone"):
        load_weights(network_of("convnext_tiny"), "micronet")
