"""The profile of a tower by parts: self times, every part seen, and everything put back."""

from __future__ import annotations

import itertools
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from evoprune import EvoPrune, ops
from evoprune.bench.arms import Arm, Live

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def profile_tower() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import profile_tower

        yield profile_tower
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        sys.modules.pop("profile_tower", None)


def test_what_runs_inside_another_part_is_taken_out_of_it(profile_tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()  # every look at the clock is a second
    monkeypatch.setattr(profile_tower.time, "process_time", lambda: float(next(ticks)))
    clock = profile_tower.SelfTime()
    clock.around("outer", lambda: (clock.around("inner", int)(), clock.around("inner", int)()))()
    assert dict(clock.seconds) == {"outer": 3.0, "inner": 2.0}  # 0 [1 2] [3 4] 5


def test_every_part_of_a_pruned_tower_is_seen_and_put_back(profile_tower: Any, llava: Any) -> None:
    live = Live(Arm("evoprune 16", "pruned", EvoPrune(16)), llava, {})
    before = {name: getattr(ops, name) for name in profile_tower.FUNCTIONS}
    hooks = sum(len(module._forward_pre_hooks) for module in live.model.modules())
    attention = torch.nn.functional.scaled_dot_product_attention
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = profile_tower.profile(live, lambda model: model.model.get_image_features(pixel_values=pixels))
    assert {"MLP", "matching", "merge", "norms", "other", "qkv and out projections"} <= set(found)
    assert set(found) <= set(profile_tower.PARTS) and all(seconds >= 0 for seconds in found.values())
    assert {name: getattr(ops, name) for name in profile_tower.FUNCTIONS} == before
    assert sys.modules["evoprune.ops.matching"].cosines is before["cosines"]
    assert torch.nn.functional.scaled_dot_product_attention is attention
    assert sum(len(module._forward_pre_hooks) for module in live.model.modules()) == hooks


def test_a_function_is_wrapped_wherever_it_was_imported(profile_tower: Any) -> None:
    clock, matching = profile_tower.SelfTime(), sys.modules["evoprune.ops.matching"]
    with ExitStack() as stack:
        clock._everywhere("cosines", ops, "Gram matrix", stack)
        assert matching.cosines is ops.cosines
        matching.cosines(torch.randn(1, 4, 3))
    assert list(clock.seconds) == ["Gram matrix"]


def test_shares_are_of_all_parts_and_medians_of_the_runs(profile_tower: Any) -> None:
    rows = profile_tower.table([{"MLP": 3.0, "merge": 1.0}, {"MLP": 3.0, "merge": 1.0}, {"MLP": 9.0}])
    assert rows == [{"part": "MLP", "seconds": 3.0, "share": 0.75}, {"part": "merge", "seconds": 1.0, "share": 0.25}]
