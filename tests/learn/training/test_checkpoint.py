"""An optimiser's state goes through a file and comes back as it was."""

import copy

import pytest
import torch
from torch import nn

from emcfsys_engine.learn.training.checkpoint import copied, load_optimizer, optimizer_tensors


def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x_NCHW = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad(set_to_none=True)
    network(x_NCHW.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
def test_moments_come_back_in_the_layout_of_their_weights(fused: bool) -> None:
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 3))
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=fused)
    step(network, optimizer, 1)
    resumed = copy.deepcopy(network)
    other = torch.optim.AdamW(resumed.parameters(), lr=0.1, fused=fused)
    load_optimizer(other, copied(optimizer_tensors(optimizer)))  # a file knows no layout
    for net, its in ((network, optimizer), (resumed, other)):
        step(net, its, 2)
    for own, theirs in zip(network.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(own, theirs)
