"""Every method against inputs and outputs of its official code, where there are files of it in this folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evoprune import pruners
from evoprune.pruners.tome import rates

HERE = Path(__file__).parent
MANIFESTS = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}
CASES = [(method, case) for method, manifest in MANIFESTS.items() for case in manifest["cases"]]
# Sums in another order, over several layers or through an attention.
LOOSE = ("chain_", "prop_attn", "ref_")


def arrays(method: str, case: dict[str, Any], role: str) -> dict[str, torch.Tensor]:
    with np.load(HERE / f"{method}.npz") as data:
        names = [name for name, about in case["arrays"].items() if about["role"] == role]
        return {name: torch.from_numpy(data[f"{case['case']}/{name}"]) for name in names}


def test_every_file_belongs_to_a_method() -> None:
    assert (
        {"tome", "divprune", "fastervlm", "vispruner", "visionzip", "cdpruner", "idpruner", "fastv", "dart", "fitprune"}
        <= set(MANIFESTS)
        <= set(pruners.METHODS)
    )
    assert all((HERE / f"{method}.npz").is_file() for method in MANIFESTS)


@pytest.mark.parametrize(("method", "case"), CASES, ids=lambda one: one if isinstance(one, str) else one["case"])
def test_conformance(method: str, case: dict[str, Any]) -> None:
    conformance = sys.modules[pruners.get(method).__module__].conformance
    inputs = arrays(method, case, "input")
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    found = conformance(inputs, case["hyper_parameters"])
    wanted = arrays(method, case, "output")
    assert wanted and wanted.keys() <= found.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape, name
        if tensor.is_floating_point():
            close = 1e-4 if case["case"].startswith(LOOSE) else 2e-5
            torch.testing.assert_close(found[name], tensor, rtol=close, atol=close, msg=name)
        else:
            assert torch.equal(found[name], tensor), name
    assert all(torch.equal(inputs[name], tensor) for name, tensor in before.items())


def test_official_schedules_of_tome() -> None:
    schedules = MANIFESTS["tome"]["parse_r"]
    assert schedules
    for one in schedules:
        counts, r = one["schedule"], one["r"] if isinstance(one["r"], list) else [one["r"]]
        if len(r) > 1 and r == counts[: len(r)]:
            continue  # the counts themselves, filled up with zeros
        assert list(rates(one["num_layers"], *r)) == counts
    assert rates(1, 8) == (8,)


def test_official_counts_of_divprune() -> None:
    from evoprune.pruners.divprune import conformance

    for one in MANIFESTS["divprune"]["count_table"]:
        features = {"x": torch.randn(one["N"], 8)}
        assert len(conformance(features, {"threshold_ratio": one["threshold_ratio"]})["kept"]) == one["T"]
