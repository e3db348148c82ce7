"""CDPruner: relevance scaled by picture, the conditional kernel, and settings; the question itself is in `models`."""

from __future__ import annotations

import json
import math

import pytest
import torch

from evoprune import CDPruner
from evoprune.pruners import FeatureView, Pruner
from evoprune.pruners.cdpruner import conformance, scaled
from tests.ops.test_determinantal import check, cosine, on


def literal_scale(rows: list[list[float]], owners: list[int]) -> list[list[float]]:
    """Return (s - min + 1e-6) / (max - min) over all rows of an owner, and 1 where they are all equal."""
    found = []
    for row, owner in zip(rows, owners, strict=True):
        values = [v for other, one in zip(rows, owners, strict=True) if one == owner for v in other]
        low, high = min(values), max(values)
        found.append([(v - low + 1e-6) / (high - low) if high > low else 1.0 for v in row])
    return found


@pytest.mark.parametrize("owners", [[0, 0, 0, 0], [0, 1, 2, 3], [7, 3, 7, 3]])
def test_relevance_is_scaled_over_the_tiles_of_a_picture(owners: list[int]) -> None:
    torch.manual_seed(0)
    relevance = torch.randn(4, 6) * torch.tensor([[1.0], [0.1], [3.0], [0.01]])
    relevance[3] = 0.25 if owners == [0, 1, 2, 3] else relevance[3]
    wanted = torch.tensor(literal_scale(relevance.double().tolist(), owners), dtype=torch.float32)
    torch.testing.assert_close(scaled(relevance, torch.tensor(owners)), wanted, atol=1e-5, rtol=1e-5)
    if owners == [0, 1, 2, 3]:
        torch.testing.assert_close(scaled(relevance), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 3e-8])
def test_equal_relevance_leaves_diversity_alone(noise: float) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 9, 16)
    same = torch.full((2, 9), 0.3) + noise * torch.randn(2, 9)
    assert torch.equal(scaled(same), torch.ones(2, 9))
    picks = CDPruner(4).select(FeatureView(features, relevance=same, owners=torch.zeros(2, dtype=torch.int64)), 4)
    assert (picks.diff(dim=1) > 0).all()
    assert torch.equal(picks, CDPruner(4, theta=0.0).select(FeatureView(features, relevance=torch.rand(2, 9)), 4))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("theta", [None, 0.4, 0.98])
def test_it_keeps_the_most_probable_set_by_greed(sign: int, theta: float | None) -> None:
    torch.manual_seed(1)
    features, relevance, owners = torch.randn(3, 8, 12), torch.randn(3, 8), torch.tensor([0, 0, 1])
    view = FeatureView(features, relevance=relevance, owners=owners)
    picks = CDPruner(4, relevance_sign=sign, theta=theta).select(view, 4)
    r = torch.tensor(literal_scale((sign * relevance).double().tolist(), owners.tolist()))
    weights = r if theta is None else torch.exp(theta / (2 * (1 - theta)) * r)
    weights = weights / weights.amax(1, keepdim=True)  # of no account for what is chosen
    kernel = weights[:, :, None] * cosine(features) * weights[:, None, :]
    for one, row, weight in zip(kernel.tolist(), picks.tolist(), weights, strict=True):
        order: list[int] = []  # the greedy order, of which `select` gives the sorted places
        while len(order) < 4:
            left = [i for i in row if i not in order]
            order.append(max(left, key=lambda i: on(one, [*order, i])))
        assert order[0] == int(weight.argmax())
        check(one, order)


def test_beyond_the_rank_relevance_decides() -> None:
    """More tokens than dimensions: the official code returns fewer, as it picks some twice."""
    torch.manual_seed(2)
    features, relevance = torch.randn(1, 40, 8), torch.randn(1, 40)
    (picks,) = CDPruner(20).select(FeatureView(features, relevance=relevance), 20).tolist()
    assert len(set(picks)) == 20
    diverse = set(CDPruner(8).select(FeatureView(features, relevance=relevance), 8)[0].tolist())
    rest = sorted((i for i in range(40) if i not in diverse), key=lambda i: -float(relevance[0, i]))
    assert set(picks) == diverse | set(rest[:12])


def test_zero_and_broken_features_and_relevance() -> None:
    features, relevance = torch.randn(2, 7, 4), torch.randn(2, 7)
    features[0, 3], features[1, 2, 0] = 0.0, math.nan
    for theta in (None, 0.5):
        picks = CDPruner(7, theta=theta).select(FeatureView(features, relevance=relevance), 7)
        assert picks.tolist() == [list(range(7))] * 2
    relevance[0, 1] = math.nan
    assert CDPruner(7).select(FeatureView(features, relevance=relevance), 7).tolist() == [list(range(7))] * 2


def test_it_asks_for_the_question() -> None:
    assert CDPruner(4).needs == {"projected", "relevance"}
    with pytest.raises(ValueError, match="has no relevance"):
        CDPruner(4).select(FeatureView(torch.randn(1, 9, 4)), 4)


def test_the_sign_of_a_text_tower_is_settled_unless_it_is_given() -> None:
    assert [CDPruner(4).settled(kind).relevance_sign for kind in ("clip", "siglip", "embeddings")] == [-1, 1, 1]
    assert [CDPruner(4, relevance_sign=s).settled("clip").relevance_sign for s in (-1, 1)] == [-1, 1]


def test_a_module_is_compared_by_identity_and_is_no_json() -> None:
    tower, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert CDPruner(4, text_tower=tower) == CDPruner(4, text_tower=tower) != CDPruner(4, text_tower=other)
    assert hash(CDPruner(4, text_tower=tower)) == hash(CDPruner(4, text_tower=tower))
    with pytest.raises(ValueError, match=r"text_tower is a Linear in memory, which JSON cannot hold: give its name"):
        CDPruner(4, text_tower=tower).to_dict()
    named = CDPruner(4, text_tower="embeddings", relevance_sign=-1, theta=0.5)
    assert Pruner.from_dict(json.loads(json.dumps(named.to_dict()))) == named


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text_tower": ""}, "text_tower='' is no text tower"),
        ({"text_tower": 3}, "text_tower=3 is no text tower"),
        ({"relevance_sign": 0}, "relevance_sign=0 makes every token as relevant"),
        ({"relevance_sign": 2}, "relevance_sign=2 is outside -1..1"),
        ({"relevance_sign": 0.5}, "relevance_sign=0.5 is no whole number"),
        ({"theta": 1.0}, "theta=1.0 is outside 0..0.98"),
        ({"theta": -0.1}, "theta=-0.1 is outside"),
        ({"theta": "a"}, "theta='a' is no number"),
    ],
)
def test_refuses(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError) as raised:
        CDPruner(4, **values)
    assert words in str(raised.value)


def test_conformance_takes_any_form() -> None:
    """Sizes, signs and weights that the files of `tests/golden` do not have."""
    torch.manual_seed(3)
    inputs = {name: torch.randn(3, 11, width) for name, width in (("features", 7), ("image_embeds", 5))}
    inputs["text_embeds"] = torch.randn(4, 5)
    for sign, theta, keep in ((-1, None, 5), (1, 0.5, 11), (1, None, 1)):
        found = conformance(inputs, {"visual_token_num": keep, "relevance_sign": sign, "theta": theta})
        assert found["selected"].shape == (3, keep) and found["mask"].sum(1).tolist() == [keep] * 3
        assert torch.equal(found["selected"].sort(dim=1).values, found["kept"])
        one = torch.nn.functional.cosine_similarity(
            inputs["image_embeds"][:, :, None].double(), inputs["text_embeds"][None, None].double(), dim=-1
        ).mean(-1)
        wanted = torch.tensor(literal_scale((sign * one).tolist(), [0, 0, 0]), dtype=torch.float64)
        torch.testing.assert_close(found["relevance"].double(), wanted, atol=1e-5, rtol=1e-5)
        if theta is not None:
            wanted = torch.exp(theta / (2 * (1 - theta)) * wanted)
        kernel = wanted[:, :, None] * cosine(inputs["features"]) * wanted[:, None, :]
        torch.testing.assert_close(found["kernel"].double(), kernel, atol=1e-4, rtol=1e-4)
