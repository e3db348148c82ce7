"""The shape model of cost, against the paper's ratios and against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evoprune import flops, schedules


class Layer(torch.nn.Module):
    """A plain encoder layer, attention written out: FlopCounterMode counts 0 for sdpa on a CPU."""

    def __init__(self, width, heads, mlp):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (torch.nn.Linear(width, width) for _ in range(4))
        self.up, self.down = torch.nn.Linear(width, mlp), torch.nn.Linear(mlp, width)

    def forward(self, x, merged):
        split = [f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)]
        attention = torch.softmax(split[0] @ split[1].transpose(-1, -2), -1) @ split[2]
        x = x + self.out(attention.transpose(1, 2).flatten(2))
        x = x[:, merged:]  # the counts of a merge, whatever its values
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


def counted(tokens, merges, width, heads, mlp, prefix):
    with torch.device("meta"):
        layers = [Layer(width, heads, mlp) for _ in merges]
        x = torch.randn(1, tokens + prefix, width)
    with FlopCounterMode(display=False) as counter:
        for layer, merged in zip(layers, merges, strict=True):
            x = layer(x, merged)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("tokens", "keep", "layers", "width", "heads", "mlp", "prefix"),
    [(729, 64, 26, 1152, 16, 4304, 0), (576, 64, 23, 1024, 16, 4096, 1), (196, 49, 12, 96, 4, 256, 1)],
    ids=["siglip", "clip", "small"],
)
def test_equals_the_counter(tokens, keep, layers, width, heads, mlp, prefix):
    for merges in (schedules.allocate(tokens, keep, layers), (0,) * layers):
        assert flops.tower(tokens, merges, width, mlp, prefix) == counted(tokens, merges, width, heads, mlp, prefix)


def test_linear_equals_the_counter():
    with torch.device("meta"):
        patches = torch.nn.Conv2d(3, 1024, 14, stride=14)
        projector = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 4096))
        picture, features = torch.randn(1, 3, 336, 336), torch.randn(1, 576, 1024)
    with FlopCounterMode(display=False) as counter:
        patches(picture)
    assert counter.get_total_flops() == flops.linear(576, 3 * 14 * 14, 1024)
    with FlopCounterMode(display=False) as counter:
        projector(features)
    assert counter.get_total_flops() == flops.linear(576, 1024, 4096, 4096)


def siglip_ratio(keep, strategy):
    merges = schedules.allocate(729, keep, 26, strategy)
    return flops.tower(729, merges, 1152, 4304) / flops.tower(729, (0,) * 26, 1152, 4304)


@pytest.mark.parametrize(("strategy", "ratios"), [("skip:1", (0.540, 0.504, 0.466)), ("skip:0", (0.504, 0.467, 0.429))])
def test_siglip_so400m_ratios(strategy, ratios):
    for keep, ratio in zip((64, 32, 16), ratios, strict=True):
        assert siglip_ratio(keep, strategy) == pytest.approx(ratio, abs=0.001)


def test_clip_ratios_with_and_without_the_unread_layer():
    for keep, ratio in ((128, 0.591), (64, 0.535), (32, 0.494)):
        merges = schedules.allocate(576, keep, 23)
        full = flops.tower(576, (0,) * 23, 1024, 4096, prefix=1)
        assert flops.tower(576, merges, 1024, 4096, prefix=1) / full == pytest.approx(ratio, abs=0.006)


def test_selection_counts_only_layers_that_merge():
    assert flops.selection(100, (0, 0), 8) == 0
    assert flops.selection(100, (0, 10), 8) == 2 * 2 * 100**2 * 8
    assert flops.selection(100, (10, 10), 8, importance=False) == 2 * (100**2 + 90**2) * 8
    assert flops.selection(101, (5,), 8, importance=False, diversity=False) == 2 * 51 * 50 * 8
    assert flops.selection(100, (5,), 8, prefix=1, diversity=False) == 2 * (101**2 + 50 * 50) * 8
