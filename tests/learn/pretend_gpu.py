"""A GPU that is none: tensors that say `cuda:0`, compute on the processor, and are strict.

What a real GPU refuses is refused: operations over two devices, numpy of what lies on the device, a
generator of the other device, `set_device` without an index (torch's own function runs). What costs
time there is counted: host synchronisations, with the line that caused them, and uploads.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import torch
import torch.utils._foreach_utils as foreach_utils
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
_ASKS_HOST = {"_local_scalar_dense", "item", "equal", "is_nonzero"}
_SIZE_DEPENDS = {
    *("nonzero", "masked_select", "unique", "_unique2", "unique_dim", "unique_consecutive"),
    *("bincount", "repeat_interleave"),
}
_INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


@dataclass
class Pretended:
    """What was asked of the GPU, and how much it can take."""

    syncs: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kind, file:line)
    uploads: int = 0
    uploaded_bytes: int = 0
    downloads: int = 0  # without waiting or with it
    waits: int = 0  # for an event that is long past, as a rule
    kernels: int = 0
    conv_dtypes: Counter[torch.dtype] = field(default_factory=Counter)
    most_pixels: int | None = None  # of a convolution's input, N·H·W: more is out of memory
    breaks_at: Callable[[], bool] | None = None  # True: an illegal access, from then on for ever
    is_broken: bool = False
    peak_bytes: int = 1 << 30  # as the allocator tells it
    memory_fraction: float = 1.0
    device_set: list[int] = field(default_factory=list)

    def forget(self) -> None:
        """Count from 0 again."""
        self.syncs.clear()
        self.conv_dtypes.clear()
        self.uploads = self.uploaded_bytes = self.kernels = self.downloads = self.waits = 0

    def sync(self, kind: str) -> None:
        """Note that the host waited for the device."""
        self.syncs[kind, _where()] += 1

    def uploaded(self, tensor: torch.Tensor, *, waits: bool) -> None:
        """Note that a tensor went up; from memory that is not pinned the host waits."""
        self.uploads += 1
        self.uploaded_bytes += tensor.numel() * tensor.element_size()
        if waits:
            self.sync(f"upload {tuple(tensor.shape)}")


_now = Pretended()


def _where() -> str:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if "emcfsys_engine" in frame.f_code.co_filename:
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class _OnGpu(torch.Tensor):
    """A tensor that says it lies on the GPU; `held` is what it computes with."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type["_OnGpu"], held: torch.Tensor) -> "_OnGpu":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("cpu"),
            requires_grad=held.requires_grad,
            layout=held.layout,
        )
        made.held = held.detach()
        return made

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)

    def __repr__(self) -> str:
        return f"on GPU: {tuple(self.shape)} {self.dtype}"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket._qualified_op_name.split("::")[-1]
        _now.kernels += 1
        _refuse_broken()
        if name in _ASKS_HOST:
            _now.sync(name)
            return func(*tree_map(_held, args))
        if name == "_to_copy":
            return _converted(func, args, kwargs)
        if name == "copy_":
            return _copied(args[0], args[1])
        _check_one_device(name, args, kwargs)
        _count(name, args)
        kwargs = tree_map(_held, dict(kwargs))
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        made = tree_map(_on_gpu, func(*tree_map(_held, args), **kwargs))
        return return_and_correct_aliasing(func, args, kwargs, made)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _OnGpu) else value


def _on_gpu(value: Any) -> Any:
    is_plain = isinstance(value, torch.Tensor) and not isinstance(value, _OnGpu)
    return _OnGpu(value) if is_plain else value


def _converted(func: Any, args: Sequence[Any], kwargs: Any) -> Any:
    # Autograd names the device that torch's core knows, the processor: what asks for a download
    # by itself never comes here, but to `_moved`.
    kept = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory", "non_blocking")}
    return _OnGpu(func(_held(args[0]), **kept) if kept else _held(args[0]).clone())


def _copied(to: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    if isinstance(to, _OnGpu) and not isinstance(source, _OnGpu):
        _now.uploaded(source, waits=True)
    if not isinstance(to, _OnGpu):
        _now.sync(f"download {tuple(source.shape)}")
    _held(to).copy_(_held(source))
    return to


def _check_one_device(name: str, args: Any, kwargs: Any) -> None:
    flat = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    plain = [each for each in flat if not isinstance(each, _OnGpu) and each.dim() > 0]
    if plain:
        shapes = [tuple(each.shape) for each in plain]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found cuda:0 and cpu in {name} "
            f"at {_where()}: {shapes}"
        )


def _count(name: str, args: Sequence[Any]) -> None:
    if name in _SIZE_DEPENDS:
        _now.sync(name)
    if name in _INDEXES and any(
        each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
    ):
        _now.sync(f"{name} by a mask")
    if name in ("convolution", "conv2d"):  # the second in inference mode
        image = args[0]
        _now.conv_dtypes[image.dtype] += 1
        pixels = image.shape[0] * image.shape[-1] * image.shape[-2]
        if _now.most_pixels is not None and pixels > _now.most_pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _refuse_broken() -> None:
    if _now.is_broken or (_now.breaks_at is not None and _now.breaks_at()):
        _now.is_broken = True
        kind = getattr(torch, "AcceleratorError", RuntimeError)
        raise kind("CUDA error: an illegal memory access was encountered\nCUDA kernel errors …")


def _is_gpu(device: Any) -> bool:
    if isinstance(device, int):
        return True
    return device is not None and torch.device(device).type == "cuda"


class _Moves(TorchFunctionMode):
    """Catches what brings tensors to the GPU and back."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to and isinstance(args[0], torch.Tensor):
            found = _moved(args, kwargs)
            return func(*args, **kwargs) if found is None else found
        if args and isinstance(args[0], _OnGpu):
            if func is torch.Tensor.cpu:
                _now.sync(f"download {tuple(args[0].shape)}")
                return args[0].held.clone()
            if func is torch.Tensor.tolist:
                _now.sync("tolist")
                return args[0].held.tolist()
            if func is torch.Tensor.numpy:
                raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if _is_gpu(kwargs.get("device")) and not any(isinstance(a, _OnGpu) for a in args):
            return _made_there(func, args, kwargs)
        return func(*args, **kwargs)


def _made_there(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Tensor:
    """Return a new tensor of a factory."""
    _refuse_broken()
    generator = kwargs.get("generator")
    if generator is not None and generator.says_device.type != "cuda":
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    made = func(*args, **{**kwargs, "device": torch.device("cpu")})
    if func in (torch.tensor, torch.as_tensor, torch.asarray):
        _now.uploaded(made, waits=True)
    there = _OnGpu(made)
    return there.requires_grad_(made.requires_grad) if made.requires_grad else there


def _moved(args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """Do what `Tensor.to` does, where one side is the GPU; None: the real one may."""
    tensor = args[0]
    device, dtype, layout = (kwargs.get(k) for k in ("device", "dtype", "memory_format"))
    waits = not kwargs.get("non_blocking", False)
    for each in args[1:]:
        if isinstance(each, torch.device | str | int) and not isinstance(each, bool):
            device = GPU if isinstance(each, int) else torch.device(each)
        elif isinstance(each, torch.dtype):
            dtype = each
        elif isinstance(each, torch.Tensor):
            device, dtype = each.device, each.dtype
        elif isinstance(each, bool):
            waits = not each
    if not isinstance(tensor, _OnGpu):
        return _uploaded(tensor, dtype, layout, waits) if _is_gpu(device) else None
    if device is None or _is_gpu(device):
        made: torch.Tensor = tensor
        if dtype is not None and dtype != tensor.dtype:
            made = torch.ops.aten._to_copy(made, dtype=dtype)
        if layout is not None and tensor.dim() == 4:
            made = made.contiguous(memory_format=layout)
        return made.clone() if kwargs.get("copy") and made is tensor else made
    if waits:
        _now.sync(f"download {tuple(tensor.shape)}")
    _now.downloads += 1
    held = tensor.detach().held  # type: ignore[attr-defined]
    return held.to(dtype).clone() if dtype else held.clone()


def _uploaded(tensor: torch.Tensor, dtype: Any, layout: Any, waits: bool) -> torch.Tensor:
    _refuse_broken()
    held = tensor.detach()
    _now.uploaded(held, waits=waits or not getattr(tensor, "says_pinned", False))
    if layout is not None and tensor.dim() == 4:
        held = held.contiguous(memory_format=layout)
    there = _OnGpu((held if dtype is None else held.to(dtype)).clone())
    wants = tensor.is_floating_point() and tensor.requires_grad
    return there.requires_grad_(True) if wants else there


class _Generator(torch.Generator):
    says_device = torch.device("cpu")

    def __new__(cls: type["_Generator"], device: Any = "cpu") -> "_Generator":
        made = super().__new__(cls, "cpu")
        made.says_device = torch.device(device)
        return made


class _Event:
    """Ends when it was recorded: what computes here is done before the next line."""

    def record(self) -> None:
        _refuse_broken()

    def synchronize(self) -> None:
        _refuse_broken()
        _now.waits += 1


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def _pinned(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    tensor.says_pinned = True  # type: ignore[attr-defined]
    return tensor


@contextlib.contextmanager
def pretended_gpu(
    capability: tuple[int, int] = (9, 0), memory: int = 80 << 30
) -> Iterator[Pretended]:
    """Let torch find one GPU while it lasts; yields the counts of what it was asked."""
    global _now
    before, _now = _now, Pretended()
    seen = _now
    torch._C._ensureCUDADeviceGuardSet()
    name = "Pretended GPU"
    facts = SimpleNamespace(total_memory=memory, name=name, multi_processor_count=132)
    arch = [f"sm_{capability[0]}{capability[1]}"]
    real_submit = ThreadPoolExecutor.submit

    def submit(pool: Any, work: Any, *args: Any, **kwargs: Any) -> Any:
        def run() -> Any:
            with _Moves():  # a mode is one thread's own
                return work(*args, **kwargs)

        return real_submit(pool, run)

    def take_fraction(share: float, device: Any = None) -> None:
        seen.memory_fraction = share

    nothing: Callable[..., None] = lambda *args, **kwargs: None  # noqa: E731
    cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": nothing,
        "device_count": lambda: 1,
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: facts,
        "get_device_name": lambda device=None: name,
        "get_arch_list": lambda: arch,
        "mem_get_info": lambda device=None: (memory, memory),
        "set_per_process_memory_fraction": take_fraction,
        "empty_cache": nothing,
        "reset_peak_memory_stats": nothing,
        "max_memory_allocated": lambda device=None: seen.peak_bytes,
        "synchronize": lambda *args: _refuse_broken(),
        "current_device": lambda: 0,
        "is_current_stream_capturing": lambda: False,
        "Event": _Event,
        "manual_seed": nothing,
        "manual_seed_all": nothing,
    }
    patches: list[tuple[Any, str, Any]] = [(torch.cuda, key, value) for key, value in cuda.items()]
    patches += [
        (torch._C, "_cuda_setDevice", seen.device_set.append),
        (torch.Tensor, "pin_memory", _pinned),
        (torch.optim.Optimizer, "_accelerator_graph_capture_health_check", nothing),
        (torch, "autocast", _Autocast),
        (torch, "Generator", _Generator),
        (ThreadPoolExecutor, "submit", submit),
        (
            foreach_utils,
            "_foreach_supported_types",
            [*foreach_utils._foreach_supported_types, _OnGpu],
        ),
    ]
    old = [(owner, key, getattr(owner, key, None)) for owner, key, _ in patches]
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    cudnn = torch.backends.cudnn.enabled
    try:
        for owner, key, value in patches:
            setattr(owner, key, value)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch.backends.cudnn.enabled = False
        with _Moves():
            yield seen
    finally:
        for owner, key, value in old:
            setattr(owner, key, value)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
        torch.backends.cudnn.enabled = cudnn
        _now = before
