"""Try the smallest backbone of every timm family under every head, forward and backward.

python tests/bench/timm_matrix.py                       the whole matrix
python tests/bench/timm_matrix.py --slice 1/4           a quarter of the families
python tests/bench/timm_matrix.py --families convnext,swin_transformer
python tests/bench/timm_matrix.py --smp --size 224x352  what segmentation-models-pytorch does alone
python tests/bench/timm_matrix.py --plan-only           every backbone, only planned, no numbers
"""

import argparse
import gc
import json
import platform
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import segmentation_models_pytorch as smp
import timm
import torch
from timm.models._registry import _model_to_module as family_of  # timm offers no public way
from torch import nn

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.learn.networks.backbones import count_parameters
from emcfsys_engine.learn.networks.encoder_plan import plan_encoder
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.model_card import Head, NetworkSpec

HEADS: tuple[Head, ...] = get_args(Head)
NUM_IMAGES = 2
NUM_CLASSES = 3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one pair of backbone and head did."""

    family: str
    backbone: str
    head: str
    seconds: float
    fault: str  # empty: it passed


def main() -> int:
    """Run what was asked and print one table."""
    options = _options()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.plan_only:
        return _plan_all(options.slice)
    build = _smp_network if options.smp else _our_network
    outcomes: list[Outcome] = []
    for family, backbone in _chosen(options):
        row = [_tried(build, family, backbone, head, options.size) for head in HEADS]
        outcomes += row
        marks = "  ".join("ok  " if not each.fault else "FAIL" for each in row)
        seconds = sum(each.seconds for each in row)
        print(f"{family:26} {backbone:34} {marks}  {seconds:6.1f} s", flush=True)
    _conclude(outcomes, options)
    return int(options.strict and any(each.fault for each in outcomes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--slice", default="1/1", help="i/n: every n-th family from the i-th")
    parser.add_argument("--families", default="", help="only these, by comma")
    parser.add_argument("--strict", action="store_true", help="end with 1 if any pair fails")
    parser.add_argument("--smp", action="store_true")
    parser.add_argument("--plan-only", action="store_true")
    parser.add_argument("--size", type=_size, default=(200, 328), help="height x width, 200x328")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the outcomes here")
    return parser.parse_args()


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def families() -> dict[str, list[str]]:
    """Return the backbones of each family; a family is one module of timm.

    timm's own `test_…` networks are toys of its test suite and stand for no family.
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        if not name.startswith("test_"):
            members[family_of[name]].append(name)
    return dict(sorted(members.items()))


def _chosen(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    number, slices = (int(part) for part in options.slice.split("/"))
    wanted = [each for each in options.families.split(",") if each]
    known = [each for each in families().items() if not wanted or each[0] in wanted]
    for family, members in known[number - 1 :: slices]:
        yield family, min(members, key=lambda name: (count_parameters(name), name))


def _our_network(backbone: str, head: Head) -> nn.Module:
    return build_network(NetworkSpec(head=head, backbone=backbone, num_classes=NUM_CLASSES))


def _smp_network(backbone: str, head: Head) -> nn.Module:
    model: Callable[..., nn.Module] = {
        "unet": smp.Unet,
        "pspnet": smp.PSPNet,
        "deeplabv3plus": smp.DeepLabV3Plus,
        "upernet": smp.UPerNet,
    }[head]
    return model(f"tu-{backbone}", encoder_weights=None, in_channels=1, classes=NUM_CLASSES)


def _tried(
    build: Callable[[str, Head], nn.Module],
    family: str,
    backbone: str,
    head: Head,
    size: tuple[int, int],
) -> Outcome:
    started = time.perf_counter()
    try:
        fault = _fault(build(backbone, head), size)
    except Exception as error:  # any failure of any network is a result here
        fault = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    gc.collect()
    seconds = time.perf_counter() - started
    return Outcome(family=family, backbone=backbone, head=head, seconds=seconds, fault=fault)


def _fault(network: nn.Module, size: tuple[int, int]) -> str:
    """Return what is wrong with one step forward and backward, or nothing."""
    network.train()
    x_NCHW = torch.randn(NUM_IMAGES, 1, *size)
    logits_NCHW = network(x_NCHW)
    wanted = (NUM_IMAGES, NUM_CLASSES, *size)
    if tuple(logits_NCHW.shape) != wanted:
        return f"the logits are {tuple(logits_NCHW.shape)}, not {wanted}"
    if not logits_NCHW.isfinite().all():
        return "the logits are not finite"
    logits_NCHW.square().mean().backward()
    unused = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        return f"{len(unused)} parameters without gradient, {unused[0]} first"
    return ""


def _conclude(outcomes: list[Outcome], options: argparse.Namespace) -> None:
    failed = [each for each in outcomes if each.fault]
    for each in failed:
        print(f"  {each.backbone} × {each.head}: {each.fault}")
    passed = len(outcomes) - len(failed)
    rate = 100 * passed / max(len(outcomes), 1)
    shape = "×".join(str(each) for each in (NUM_IMAGES, 1, *options.size))
    who = "smp alone" if options.smp else "EMCFsys"
    print(f"\n{who}: {passed} of {len(outcomes)} pairs pass ({rate:.1f} %) at {shape}")
    print(
        f"timm {timm.__version__}, smp {smp.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {options.threads} thread(s), seed 0"
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=1))


def _plan_all(part: str) -> int:
    """Plan every backbone timm knows; nothing is computed, so this covers all sizes of a family."""
    number, slices = (int(each) for each in part.split("/"))
    names = timm.list_models()[number - 1 :: slices]
    faults: dict[str, str] = {}
    tiled = 0
    for name in names:
        try:
            plan: Any = plan_encoder(name, 1)
            tiled += plan.tile_px is not None
        except EmcfError as error:
            faults[name] = str(error)
            print(error, flush=True)
        plan_encoder.cache_clear()
    print(f"{len(names) - len(faults)} of {len(names)} backbones can be planned, {tiled} in tiles")
    return 0


if __name__ == "__main__":
    sys.exit(main())
