"""The processes of one training: who is which, what they agree on, and sums over all of them.

Alone, everything here is the identity. Decisions travel over the processor (gloo), gradients and
statistics over the device they are on (NCCL on GPUs).
"""

import ctypes
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from emcfsys_engine.errors import PeerLostError
from emcfsys_engine.launch.start import Place
from emcfsys_engine.learn.device import device_of
from emcfsys_engine.project import UNLABELLED

Network = TypeVar("Network", bound=nn.Module)

_PATIENCE = timedelta(minutes=10)  # all read the same images; more means that one hangs
_BUCKET_VALUES = 1 << 23  # 32 MiB of gradients in one message
_PR_SET_PDEATHSIG = 1


class Ranks:
    """The processes that train one network together."""

    def __init__(self, place: Place = Place()) -> None:  # noqa: B008 - it cannot be changed
        self.rank = place.rank
        self.world = place.world
        self.local_rank = place.local_rank
        self.local_world = place.local_world

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and tells what happens."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """Return the device that this process computes on; `kind` is "cpu" or "cuda"."""
        return device_of(kind, self.local_rank)

    def connect(self, device: torch.device) -> None:
        """Meet the others.

        Raises: RunFailedError when they do not come; like all that follows, when one is lost.
        """
        if self.world == 1:
            return
        # The launcher holds the run's lock: without it nobody may go on writing to the run.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        with _others(self.world):
            dist.init_process_group(backend, timeout=_PATIENCE)

    def with_common_norms(self, network: Network, device: torch.device) -> Network:
        """Let batch norms average over all processes; on processors each has its own share's."""
        if self.world == 1 or device.type != "cuda":
            return network
        # timm's knows the norms that have an activation in them; the network itself is no norm.
        return cast(Network, convert_sync_batchnorm(network))

    def are_coupled(self, device: torch.device) -> bool:
        """Tell whether processes wait for each other within a forward pass.

        Batch norms over several GPUs do: one that is out of memory there cannot tell the others.
        """
        return self.world > 1 and device.type == "cuda"

    def leave(self) -> None:
        """Part from the others, at a moment when nobody waits for anybody."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def most(self, *values: float) -> tuple[float, ...]:
        """Return for each value the largest that any process has: all decide alike."""
        if self.world == 1:
            return values
        agreed = torch.tensor(values, dtype=torch.float64)
        with _others(self.world):
            dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return tuple(agreed.tolist())

    def wait(self) -> None:
        """Wait until every process is here."""
        self.most(0.0)

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """Return what the first process made."""
        if self.world == 1:
            return make()
        content = make() if self.is_first else b""
        size = int(self.most(len(content))[0])
        told = torch.zeros(size, dtype=torch.uint8)
        if self.is_first:
            told = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with _others(self.world):
            dist.broadcast(told, 0)
        return told.numpy().tobytes()

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of the first process. Shapes: any, dtype kept."""
        if self.world > 1:
            with _others(self.world):
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def own(self, count: int) -> range:
        """Return which of a step's patches this process cuts: every so many, whatever is a part.

        Where there are fewer patches than processes, the last ones have one that stands in.
        """
        return range(self.rank, count, self.world) or range(1)

    def part(self, images: Tensor, labels: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return this process's of the patches `first` to `last` of a step: as many for each.

        What is missing to that is made up of unlabelled patches, which weigh nothing in any loss.
        Shapes: N×C×M×M and N×M×M, or N×K×M×M, of its own patches in; (last - first) / processes of
        each out, both dtypes kept.
        """
        if self.world == 1:
            return images[first:last], labels[first:last]
        places = (max(0, -(-(number - self.rank) // self.world)) for number in (first, last))
        own = slice(*places)
        missing = -(-(last - first) // self.world) - len(images[own])
        if not missing:
            return images[own], labels[own]
        blank = torch.full_like(labels[:1].expand(missing, *labels.shape[1:]), UNLABELLED)
        filler = images[:1].expand(missing, -1, -1, -1)
        padded = torch.cat([images[own], filler])
        padded = padded.contiguous(memory_format=torch.channels_last)
        return padded, torch.cat([labels[own], blank])

    def block(self, count: int) -> range:
        """Return which of `count` things are this process's: one block each."""
        each = -(-count // self.world)
        return range(min(count, self.rank * each), min(count, (self.rank + 1) * each))

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes; gradients are not followed.

        Shapes: any, of any number type, the same on each process; it is summed in place.
        """
        if self.world > 1:
            with _others(self.world):
                dist.all_reduce(tensor)
        return tensor

    def gathered_bytes(self, own: bytes) -> list[bytes]:
        """Return what each process has to say, in their order."""
        if self.world == 1:
            return [own]
        longest = int(self.most(len(own))[0])
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = len(own)
        said = torch.zeros(self.world, longest, dtype=torch.uint8)
        said[self.rank, : len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        rows = zip(self.sum(said), self.sum(lengths).tolist(), strict=True)
        return [row[:length].numpy().tobytes() for row, length in rows]

    def pooled(self, statistics: Tensor) -> Tensor:
        """Return the sum over all processes, of which each follows the gradient of its own part.

        Shapes: any, of any float type, the same on each process; dtype kept.
        """
        if self.world == 1:
            return statistics
        with _others(self.world):
            return _Pooled.apply(statistics)  # type: ignore[no-any-return]

    def gathered(self, tensor: Tensor) -> Tensor:
        """Return every process's tensor one after the other; each follows its own gradient.

        Shapes: all processes have the same shape and dtype, which is kept.
        """
        if self.world == 1:
            return tensor
        with _others(self.world):
            return _Gathered.apply(tensor, self.rank, self.world)  # type: ignore[no-any-return]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add the gradients of all processes, a few large messages at a time."""
        if self.world == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        with _others(self.world):
            _sum_in_place(gradients)


@contextmanager
def _others(world: int) -> Generator[None]:
    """Tell a person what it means when the others do not answer."""
    try:
        yield
    except RuntimeError as error:
        why = str(error).partition("\n")[0]
        raise PeerLostError(
            f"another of the {world} processes of this training ended or does not answer ({why}). "
            "What was saved before is whole: resume the run"
        ) from None


def _sum_in_place(gradients: Sequence[Tensor]) -> None:
    under_way: list[tuple[Any, Tensor, list[Tensor]]] = []
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        under_way.append((dist.all_reduce(flat, async_op=True), flat, bucket))
    for work, flat, bucket in under_way:
        work.wait()
        sizes = [gradient.numel() for gradient in bucket]
        for gradient, part in zip(bucket, flat.split(sizes), strict=True):
            gradient.copy_(part.view(gradient.shape))


class _Pooled(torch.autograd.Function):
    """Sum over processes. Each computes the same loss from it: its gradient is its own part's."""

    @staticmethod
    def forward(ctx: Any, statistics: Tensor) -> Tensor:
        total = statistics.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0]


class _Gathered(torch.autograd.Function):
    """Concatenation over processes, along the first axis."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rank: int, world: int) -> Tensor:
        ctx.own = slice(rank * len(tensor), (rank + 1) * len(tensor))
        own = tensor.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(world)]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return grad_outputs[0][ctx.own], None, None


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = [[]]
    filled = 0
    for gradient in gradients:
        if filled and filled + gradient.numel() > _BUCKET_VALUES:
            buckets.append([])
            filled = 0
        buckets[-1].append(gradient)
        filled += gradient.numel()
    return [bucket for bucket in buckets if bucket]
