"""Named sets of weights made for microscopy: where they are, whose, how fetched."""

import fcntl
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from emcfsys_engine.errors import WeightsError
from emcfsys_engine.files import open_own, sha256_of
from emcfsys_engine.settings import cache_home

Progress = Callable[[int, int | None], None]  # bytes there, bytes in all where the server says so

_MICRONET = "https://nasa-public-data.s3.amazonaws.com/microscopy_segmentation_models"
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 20


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """One family of weights for several backbones."""

    name: str
    url: str  # {encoder} and {version} are put in
    licence: str
    encoders: tuple[tuple[str, str], ...]  # timm's name, the publisher's name
    versions: tuple[tuple[str, str], ...] = ()  # publisher's name -> version, where not 1.0

    def url_for(self, backbone: str) -> str:
        """Return where the weights of this backbone are.

        Raises: WeightsError if the set has none for it.
        """
        encoder = dict(self.encoders).get(backbone.partition(".")[0])
        if encoder is None:
            some = ", ".join(name for name, _ in self.encoders[:6])
            raise WeightsError(
                self.name, f"there are none for {backbone}", f"Choose a backbone such as {some}"
            )
        return self.url.format(encoder=encoder, version=dict(self.versions).get(encoder, "1.0"))


_MICRONET_ENCODERS = (
    *((name, name) for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")),
    *((name, name) for name in ("resnext50_32x4d", "resnext101_32x8d")),
    *((name, name) for name in ("densenet121", "densenet161", "densenet169", "densenet201")),
    *((name, name) for name in ("dpn68", "dpn68b", "dpn92", "dpn98", "dpn107", "dpn131")),
    *((f"tf_efficientnet_b{n}", f"efficientnet-b{n}") for n in range(6)),
    ("inception_resnet_v2", "inceptionresnetv2"),
    ("inception_v4", "inceptionv4"),
    ("mobilenetv2_100", "mobilenet_v2"),
    *((f"legacy_seresnet{n}", f"se_resnet{n}") for n in (50, 101, 152)),
    *((f"legacy_seresnext{n}_32x4d", f"se_resnext{n}_32x4d") for n in (50, 101)),
    ("legacy_senet154", "senet154"),
    *((name, name) for name in ("vgg11_bn", "vgg13_bn", "vgg16_bn")),
    ("legacy_xception", "xception"),
)
# Source: Stuckner et al. 2022, npj Computational Materials 8, 200.

WEIGHT_SETS: dict[str, WeightSet] = {
    "micronet": WeightSet(
        name="micronet",
        url=_MICRONET + "/{encoder}_pretrained_microscopynet_v{version}.pth.tar",
        licence="MIT",
        encoders=_MICRONET_ENCODERS,
        versions=(("resnet50", "1.1"),),
    ),
    "imagenet-micronet": WeightSet(
        name="imagenet-micronet",
        url=_MICRONET + "/{encoder}_pretrained_imagenet-microscopynet_v{version}.pth.tar",
        licence="MIT",
        encoders=(
            *_MICRONET_ENCODERS,
            ("tf_efficientnet_b6", "efficientnet-b6"),
            ("tf_efficientnet_b7", "efficientnet-b7"),
        ),
    ),
}


def cache_folder() -> Path:
    """Return where downloaded weights are kept, and where a person can copy some to."""
    return cache_home() / "weights"


def fetch(url: str, folder: Path | None = None, *, progress: Progress | None = None) -> Path:
    """Return the file behind a URL, downloaded once, resumed where a download broke off.

    The checksum of the first download is written down beside the file and compared ever after.

    Raises: WeightsError if it cannot be had, or is no longer the file it was.
    """
    folder = folder or cache_folder()
    file = folder / url.rpartition("/")[2]
    record = file.with_name(file.name + ".json")
    if file.is_file():
        _check(file, record)
        return file
    with _alone(file):
        if not file.is_file():  # another training may have fetched it meanwhile
            _fetch_into(file, record, url, progress)
    return file


@contextmanager
def _alone(file: Path) -> Generator[None]:
    """Let no other process fetch the same file: both would write into one part.

    Raises: WeightsError where nothing can be written beside it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        place = file.with_name(f".{file.name}.lock")
        lock = open_own(place, os.O_RDWR | os.O_CREAT, is_shared=True)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise WeightsError(str(file), what, "Set XDG_CACHE_HOME to another folder") from None
    try:
        with suppress(OSError):  # a disk without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _fetch_into(file: Path, record: Path, url: str, progress: Progress | None) -> None:
    part = file.with_name(file.name + ".part")
    try:
        _download(url, part, progress)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            url, f"it cannot be downloaded ({reason})", f"Copy the file to {file}"
        ) from error
    digest = sha256_of(part)
    _check_again(file, record, digest)
    _write_record(record, url, digest)
    part.replace(file)


class _Answer(Protocol):
    status: int

    def read(self, amount: int, /) -> bytes: ...


def _download(url: str, part: Path, progress: Progress | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to send, the part is whole or stale
            raise
        part.unlink()
        _download(url, part, progress)
        return
    with answer:
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length")
        start = have if resumed else 0
        total = start + int(length) if length else None
        _receive(answer, part, start, total, progress)


def _receive(
    answer: _Answer, part: Path, start: int, total: int | None, progress: Progress | None
) -> None:
    done = start
    with part.open("ab" if start else "wb") as out:
        while chunk := answer.read(_CHUNK_BYTES):
            out.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        out.flush()
        os.fsync(out.fileno())
    if total is not None and done < total:
        raise ConnectionError(f"it broke off after {done} of {total} bytes; run it again to go on")


def _check(file: Path, record: Path) -> None:
    if not record.is_file():  # copied here by hand: it is what it is from now on
        _write_record(record, "copied by hand", sha256_of(file))
        return
    if json.loads(record.read_text())["sha256"] != sha256_of(file):
        raise WeightsError(
            file, "it is not the file that was downloaded first", f"Delete it and {record.name}"
        )


def _check_again(file: Path, record: Path, digest: str) -> None:
    if record.is_file() and json.loads(record.read_text())["sha256"] != digest:
        raise WeightsError(
            file,
            "the publisher now offers another file than at the first download",
            f"If that is wanted, delete {record}",
        )


def _write_record(record: Path, source: str, digest: str) -> None:
    temporary = record.with_name(record.name + ".tmp")
    temporary.write_text(json.dumps({"source": source, "sha256": digest}, indent=1) + "\n")
    temporary.replace(record)
