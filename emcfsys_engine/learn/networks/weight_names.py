"""Fit tensors under anybody's names onto timm's: prefixes, stems, position embeddings, order.

O output and I input channels, H and W pixels of a kernel.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from emcfsys_engine.learn.networks.backbones import check_backbone, names_of
from emcfsys_engine.learn.networks.encoder_plan import EncoderPlan

_Tensors = dict[str, Tensor]

# Made anew by each network, or counters: neither is a weight.
_BOOKKEEPING = re.compile(
    r"(num_batches_tracked|relative_position_index|attn_mask|relative_coords_table|attention_bias_idxs)$"
)
_SAME_NAME = ({"gamma", "layer_scale"},)  # last parts of names that mean the same
_MOST_PREFIX_PARTS = 6
_RGB = 3


@dataclass(frozen=True, kw_only=True)
class Match:
    """Which tensors fit the backbone, and which are left on either side.

    Shapes: those chosen have the shapes of the backbone's, dtype as in the file.
    """

    chosen: _Tensors
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    share: float  # of the backbone's parameters that are covered, 0..1
    used: float = 1.0  # of the file's numbers for such layers, 0..1: less is a larger network


def best_match(networks: list[_Tensors], body: nn.Module, plan: EncoderPlan) -> Match:
    """Return how the best of a checkpoint's networks fits the backbone, read in every way we know.

    A network is taken only as a whole: no tensor is guessed by its shape alone.
    Shapes: any, of any dtype.
    """
    wanted = body.state_dict()
    best: Match | None = None
    for network in networks:
        for reading in _readings(network, body, plan):
            match = _match(reading, wanted, body, plan)
            if best is None or match.share > best.share:
                best = match
    assert best is not None, "a checkpoint has at least one network, read in at least one way"
    return best


def covered_share(names: Mapping[str, object], body: nn.Module) -> float:
    """Return the share of the backbone's trainable numbers that these names hold, 0..1."""
    total = {n: p.numel() for n, p in body.named_parameters() if p.requires_grad}
    return sum(total[n] for n in names if n in total) / max(sum(total.values()), 1)


def _readings(network: _Tensors, body: nn.Module, plan: EncoderPlan) -> Iterator[_Tensors]:
    """Read the names in one way after the other; each yields tensors under timm's names."""
    wanted = body.state_dict()
    bare = _without_prefix(network, wanted)
    yield bare
    architecture = check_backbone(plan.backbone)
    unflattened = _without_prefix(
        {re.sub(r"(?<=[a-z])_(\d+)\.", r".\1.", name): each for name, each in network.items()},
        wanted,
    )
    if unflattened.keys() != bare.keys():
        yield unflattened
    translated = _from_torchvision(bare)
    if translated is not None:
        yield translated
    for candidate in (bare, unflattened, translated):
        filtered = None if candidate is None else _filtered_by_timm(candidate, architecture, plan)
        if filtered is not None:
            yield filtered
    zipped = _in_order(network, architecture)
    if zipped is not None:
        yield zipped


def _without_prefix(network: _Tensors, wanted: Mapping[str, Tensor]) -> _Tensors:
    """Cut off the prefix under which most of the wanted names are found (module., encoder. …)."""
    votes: Counter[str] = Counter()
    for name in network:
        parts = name.split(".")
        for cut in range(min(len(parts), _MOST_PREFIX_PARTS)):
            if ".".join(parts[cut:]) in wanted:
                votes[".".join(parts[:cut])] += 1
    prefix = votes.most_common(1)[0][0] if votes else _common_prefix(network)
    if not prefix:
        return dict(network)
    return {n[len(prefix) + 1 :]: t for n, t in network.items() if n.startswith(prefix + ".")}


def _common_prefix(network: _Tensors) -> str:
    firsts = {name.partition(".")[0] for name in network}
    return firsts.pop() if len(firsts) == 1 and len(network) > 1 else ""


def _used_share(reading: _Tensors, chosen: _Tensors, plan: EncoderPlan) -> float:
    """Return how much of what the file holds for these layers is used, 0..1.

    Classifiers, decoders and what this architecture has but the encoder leaves out do not count.
    """
    stems = {name.partition(".")[0] for name in chosen}
    own = names_of(plan.backbone)
    foreign = sum(
        tensor.numel()
        for name, tensor in reading.items()
        if name.partition(".")[0] in stems
        and name not in chosen
        and name not in own
        and not _BOOKKEEPING.search(name)
    )
    used = sum(tensor.numel() for tensor in chosen.values())
    return used / max(1, used + foreign)


def _match(reading: _Tensors, wanted: _Tensors, body: nn.Module, plan: EncoderPlan) -> Match:
    chosen: _Tensors = {}
    for name, target in wanted.items():
        given = reading.get(name)
        fitted = None if given is None else _fitted(name, given, target, body)
        if fitted is not None:
            chosen[name] = fitted
    frozen = {name for name, each in body.named_parameters() if not each.requires_grad}
    return Match(
        chosen=chosen,
        missing=tuple(
            n for n in wanted if n not in chosen and n not in frozen and not _BOOKKEEPING.search(n)
        ),
        unexpected=tuple(n for n in reading if n not in chosen and not _BOOKKEEPING.search(n)),
        share=covered_share(chosen, body),
        used=_used_share(reading, chosen, plan),
    )


def _fitted(name: str, given: Tensor, target: Tensor, body: Any) -> Tensor | None:
    """Return the tensor in the target's shape, or nothing if it cannot be meant."""
    if given.shape == target.shape:
        return given
    if given.ndim == 4 and target.ndim == 4 and given.shape[2:] == target.shape[2:]:
        made = with_channels(given, target.shape[1])
        return made if made.shape == target.shape else None
    if name.endswith("pos_embed") and given.ndim == 3 and given.shape[2:] == target.shape[2:]:
        return _resampled_positions(given, target, getattr(body, "num_prefix_tokens", 0))
    if given.squeeze().shape == target.squeeze().shape:
        return given.reshape(target.shape)
    return None


def with_channels(stem_OIHW: Tensor, in_channels: int) -> Tensor:
    """Return a stem for another number of channels; grey is seen as red + green + blue.

    Where none can be made of it, it is returned as it is.
    Shapes: O×I×H×W of any float type in and out, dtype kept. Stems that fold pixels into channels
    (space to depth) keep their groups of three; one of greys reads a third of each colour.
    """
    given = stem_OIHW.shape[1]
    if given == 1 and in_channels == _RGB:
        return stem_OIHW.repeat_interleave(_RGB, dim=1) / _RGB
    groups = given // _RGB
    if given == in_channels or given % _RGB or in_channels % groups:
        return stem_OIHW
    out, height, width = stem_OIHW.shape[0], *stem_OIHW.shape[2:]
    grey_OGHW = stem_OIHW.reshape(out, groups, _RGB, height, width).sum(dim=2)
    each = in_channels // groups
    return grey_OGHW.repeat_interleave(each, dim=1) / each


def _resampled_positions(given: Tensor, target: Tensor, num_prefix: int) -> Tensor | None:
    edge = round((target.shape[1] - num_prefix) ** 0.5)
    old = given.shape[1] - num_prefix
    if edge * edge + num_prefix != target.shape[1] or round(old**0.5) ** 2 != old:
        return None
    return resample_abs_pos_embed(given, [edge, edge], num_prefix_tokens=num_prefix)


def _filtered_by_timm(network: _Tensors, architecture: str, plan: EncoderPlan) -> _Tensors | None:
    """Let timm convert the names of a family's first publication, where it knows how."""
    reference = _meta_network(architecture, in_chans=plan.body_channels, **dict(plan.options))
    module = sys.modules[type(reference).__module__]
    convert: Callable[..., Any] | None = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        converted = convert(dict(network), reference)
    except Exception:  # a checkpoint of another family may break it in any way
        return None
    return {n: t for n, t in converted.items() if isinstance(t, Tensor)}


def _in_order(network: _Tensors, architecture: str) -> _Tensors | None:
    """Pair two lists of tensors one by one: same length, same shapes, same last part of the name.

    Many publications of one network list the same layers in the same order under other names. The
    classifier (the last two) may have other classes, or be missing.
    """
    given = [(n, t) for n, t in network.items() if not _BOOKKEEPING.search(n)]
    for kwargs in ({}, {"num_classes": 0}):
        empty = _meta_network(architecture, **kwargs).state_dict()
        wanted = [(n, t) for n, t in empty.items() if not _BOOKKEEPING.search(n)]
        if len(wanted) == len(given):
            pairs = list(zip(wanted, given, strict=True))
            body = pairs if kwargs else pairs[:-2]
            if all(_same_place(ours, theirs) for ours, theirs in body):
                return {ours[0]: theirs[1].reshape(ours[1].shape) for ours, theirs in body}
    return None


def _same_place(ours: tuple[str, Tensor], theirs: tuple[str, Tensor]) -> bool:
    names = {ours[0].rpartition(".")[2], theirs[0].rpartition(".")[2]}
    if len(names) > 1 and names not in _SAME_NAME:
        return False
    if len(ours[1].shape) != len(theirs[1].shape) and names != {"gamma", "layer_scale"}:
        return False
    return ours[1].squeeze().shape == theirs[1].squeeze().shape


def _meta_network(architecture: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(architecture, pretrained=False, **options)


_VIT_NAMES = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)


def _from_torchvision(network: _Tensors) -> _Tensors | None:
    """Translate torchvision's ViT and Swin, whose layers stand in another order than timm's."""
    if "conv_proj.weight" in network:
        return {_replaced(name): each for name, each in network.items()}
    if "features.0.0.weight" in network and "features.1.0.attn.qkv.weight" in network:
        return _split_biases({_swin_name(name): each for name, each in network.items()})
    return None


def _replaced(name: str) -> str:
    for pattern, ours in _VIT_NAMES:
        name = re.sub(pattern, ours, name)
    return name


def _split_biases(network: _Tensors) -> _Tensors:
    """Split Swin V2's bias of queries, keys and values as timm does; that of the keys is zero."""
    if not any(name.endswith("cpb_mlp.0.weight") for name in network):
        return network
    split: _Tensors = {}
    for name, each in network.items():
        if name.endswith("attn.qkv.bias"):
            query, _, value = each.chunk(3)
            split[name.replace("qkv.bias", "q_bias")] = query
            split[name.replace("qkv.bias", "v_bias")] = value
        else:
            split[name] = each
    return split


def _swin_name(name: str) -> str:
    name = re.sub(r"^features\.0\.0\.", "patch_embed.proj.", name)
    name = re.sub(r"^features\.0\.2\.", "patch_embed.norm.", name)
    stage = re.match(r"^features\.(\d+)\.", name)
    if stage is not None:
        number, rest = int(stage[1]), name[stage.end() :]
        name = f"layers.{number // 2}." + (f"blocks.{rest}" if number % 2 else f"downsample.{rest}")
    name = name.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")
    return re.sub(r"^head\.", "head.fc.", name)
