"""Code made for a batch's shape is used where it answers as the network does, and faster."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor
from torch import Tensor, nn

from emcfsys_engine.learn.inference.compiled import Call, Trial, try_compiled
from emcfsys_engine.learn.inference.predictor import Predictor

TILES = (2, 1, 32, 48)
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here"
)


class _Network(nn.Module):
    """Classes by brightness: decided everywhere, but for rounding on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.relu(x_NCHW * self.weights[:, None, None])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    yield
    torch.compiler.reset()


def _tiles(shape: tuple[int, ...] = TILES) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _plain(network: nn.Module, wait_s: float = 0.0) -> Call:
    """Return the network as it is called; the wait makes it slower than any code."""

    def call(x_NCHW: Tensor) -> Tensor:
        time.sleep(wait_s)
        return network(x_NCHW)

    return call


def _as_it_is(call: Call) -> Call:
    return call


def _try(network: nn.Module, plain: Call) -> Trial:
    return try_compiled(network, _as_it_is, plain, _tiles())


@needs_compiler
def test_code_that_is_alike_and_faster_is_used_for_its_shape_alone() -> None:
    network = _Network().eval()
    called: list[torch.Size] = []

    def plain(x_NCHW: Tensor) -> Tensor:
        called.append(x_NCHW.shape)
        return _plain(network, 0.05)(x_NCHW)

    trial = _try(network, plain)
    assert trial.is_compiled, trial.told
    assert trial.told.startswith("compiled for 2 × 32 × 48 in ")
    called.clear()
    with torch.inference_mode():
        torch.testing.assert_close(trial.call(_tiles()), network(_tiles()))
        assert called == []
        other = _tiles((1, 1, 32, 48))
        torch.testing.assert_close(trial.call(other), network(other))
    assert called == [other.shape]


@needs_compiler
def test_code_that_changes_classes_is_not_used() -> None:
    network = _Network().eval()
    trial = _try(network, lambda x_NCHW: _plain(network, 0.05)(-x_NCHW))
    assert not trial.is_compiled
    assert "of the pixels change class: not used" in trial.told


@needs_compiler
def test_code_that_is_no_faster_is_not_used() -> None:
    network = _Network().eval()
    known: dict[torch.Size, Tensor] = {}

    def plain(x_NCHW: Tensor) -> Tensor:
        if x_NCHW.shape not in known:
            known[x_NCHW.shape] = network(x_NCHW)
        return known[x_NCHW.shape]

    trial = _try(network, plain)
    assert trial.call is plain
    assert trial.told.endswith("×: not used")


def test_a_network_that_cannot_be_compiled_is_used_as_it_is() -> None:
    network = _Network().eval()
    plain = _plain(network)
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        trial = _try(network, plain)
    assert trial.call is plain
    assert trial.told.startswith("not compiled: ")


@pytest.mark.long
@needs_compiler
def test_a_predictor_answers_alike_when_it_is_compiled(model_file: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 160), np.uint8)
    predictor = Predictor(model_file, gpus=0, tile_px=64)
    assert predictor.compile() == "not compiled: nothing was predicted yet"
    expected = predictor(image)
    told = predictor.compile()
    assert "compiled for" in told
    assert np.mean(predictor(image) != expected) <= 1e-4
