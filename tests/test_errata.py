"""What the formulas as printed in arXiv 2603.03681 would do, beside what this library does."""

from __future__ import annotations

import math

import pytest
import torch

from evoprune import flops, ops, schedules


def printed_score(similarity, protected):
    """Score = Sim * w_attn with w_attn = -inf where a or b is protected."""
    weight = torch.where(protected[:, None] | protected[None], -math.inf, 1.0)
    return similarity * weight


def test_1_row_mean_of_attention_is_the_same_for_every_token():
    torch.manual_seed(0)
    q, k = torch.randn(1, 4, 12, 8), torch.randn(1, 4, 12, 8)
    attention = torch.softmax(q @ k.transpose(-1, -2) * 3, -1)
    printed = attention.mean(-1).mean(1)
    assert torch.allclose(printed, torch.full((1, 12), 1 / 12))
    ours = ops.received_attention(q, k, 3.0)
    assert ours.std() > 0.01
    assert torch.allclose(ours, attention.mean((1, 2)), atol=1e-6)


def test_2_minus_infinity_times_a_negative_or_zero_cosine():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.9, 0.1], [1.0, 0.1], [0.0, 1.0], [0.9, 0.2]])
    x = x / x.norm(dim=1, keepdim=True)
    important = torch.tensor([9.0, 0, 0, 0, 0, 0])  # token 0 is protected
    score = printed_score(x @ x.T, important > 1)
    assert score[0, 1] == math.inf  # opposite to a protected token: merged before all others
    assert score[0, 4].isnan()  # orthogonal to it
    for partition in ("index", "mergeable"):
        found = ops.match(x[None], important[None], 2, critical_ratio=0.2, partition=partition)
        assert 0 not in found.source[0]
        assert 0 not in found.target[0]


def test_2_protection_gives_way_from_the_least_important_on():
    torch.manual_seed(1)
    x = torch.randn(1, 8, 4)
    important = torch.tensor([[5.0, 0, 7, 0, 6, 0, 8, 0]])  # S = 0, 2, 4, 6: the whole of group a
    found = ops.match(x, important, 2, critical_ratio=0.5, partition="index")
    assert found.source.tolist() == [[0, 4]]


def test_3_negative_cosines_turn_the_penalty_into_a_reward():
    cosine, distinct = -0.5, torch.tensor([0.1, 0.9])
    printed = cosine * torch.exp(-2 * distinct)
    assert printed[1] > printed[0]  # the distinct pair scores higher
    sigmoid = torch.sigmoid(torch.tensor(cosine)) * torch.exp(-2 * distinct)
    assert sigmoid[1] < sigmoid[0]
    # Group a sees two targets at cosine -0.5, of which token 1 has a twin (token 3) and token 5 stands alone.
    x = torch.tensor([[1.0, 0, 0], [-0.5, 0.75**0.5, 0], [1, 0, 0.01], [-0.5, 0.75**0.5, 0.01], [1, 0.01, 0],
                      [-0.5, -(0.75**0.5), 0]])  # fmt: skip
    settings = {"diversity": 1.0, "neighbors": 1, "partition": "index"}
    assert set(ops.match(x[None], None, 3, similarity="cosine", **settings).target[0].tolist()) == {5}
    assert 5 not in ops.match(x[None], None, 3, similarity="sigmoid", **settings).target[0]
    assert 5 not in ops.match(x[None], None, 3, similarity="softmax", **settings).target[0]


def test_4_leaving_2r_tokens_unprotected_does_not_leave_r_of_them_in_group_a():
    length, r = 16, 6
    size = ops.protected_count(length, r, 0.25)
    assert size == min(int(0.25 * length), length - 2 * r) == 4
    important = torch.tensor([1.0, 0.0]).repeat(length // 2)[None]  # S lies wholly in group a
    free_in_a = length // 2 - size
    assert free_in_a < r  # the printed rule would have to merge -inf pairs
    torch.manual_seed(2)
    x = torch.randn(1, length, 8)
    literal = ops.match(x, important, r, partition="index")
    assert len(set(literal.source[0].tolist())) == r  # still exactly r merges: S gives way, least important first
    assert set(literal.source[0].tolist()) & {0, 2, 4, 6} == {4, 6}
    ours = ops.match(x, important, r, partition="mergeable")
    assert not {0, 2, 4, 6} & {*ours.source[0].tolist(), *ours.target[0].tolist()}
    assert ours.source.shape == (1, r)


def test_4_protected_count_is_never_negative():
    assert 16 - 2 * 10 < 0
    assert ops.protected_count(16, 8, 0.25) == ops.protected_count(16, 10, 0.25) == 0


def test_5_a_fixed_r_cannot_reach_the_small_counts():
    removed = 729 - 16
    fixed = math.ceil(removed / 13)
    tokens = 729
    for _ in range(12):
        tokens -= fixed
    assert (fixed, tokens) == (55, 69)
    assert fixed > tokens // 2  # more than half of what is left
    clamped, tokens = 729, 729
    for _ in range(13):
        clamped -= min(fixed, clamped // 2)
    assert clamped > 16
    for r in schedules.allocate(729, 16, 26):
        assert r <= tokens // 2
        tokens -= r
    assert tokens == 16


def test_6_the_weight_holds_back_distinct_pairs_not_redundant_ones():
    torch.manual_seed(3)
    x = torch.randn(1, 20, 16)
    x[0, 10:] = x[0, 10] + 0.2 * torch.randn(10, 16)  # a crowd
    d = ops.distinctiveness(ops.cosines(x))
    weight = torch.exp(-d)
    assert weight[0, 10:].min() > weight[0, :10].max()
    assert set(ops.match(x, None, 4).source[0].tolist()) <= set(range(10, 20))


def test_7_a_fixed_bandwidth_on_raw_features_means_nothing():
    torch.manual_seed(4)
    x = torch.randn(1, 20, 16)

    def printed(tokens, tau=1.0):
        near = torch.cdist(tokens, tokens)[0].square().sort(dim=-1).values[:, 1:6]
        return 1 - torch.exp(-near / tau**2).mean(-1)

    assert printed(x * 100).min() > 0.999  # everything is distinct
    assert printed(x * 0.001).max() < 0.001  # nothing is
    ours = [ops.distinctiveness(ops.cosines(x * scale)) for scale in (0.001, 1.0, 100.0)]
    assert torch.allclose(ours[0], ours[1], atol=1e-5)
    assert torch.allclose(ours[2], ours[1], atol=1e-5)


def test_9_accuracy_of_table_1_divides_five_benchmarks_by_four():
    total = 306.0  # VQAv2 + MME/20 + MMB + MMB-CN + MMVet of the native model
    assert total / 4 == pytest.approx(76.5)
    assert total / 5 == pytest.approx(61.2)


def test_11_latencies_of_table_2_are_no_mean_of_their_stages():
    encoder, language = 0.57, 0.43  # weights that reproduce every baseline's overall latency
    rows = {64: (0.54, 0.45, 0.55), 32: (0.50, 0.30, 0.47), 16: (0.46, 0.24, 0.43)}
    for (before, model, overall), wanted in zip(rows.values(), (0.50, 0.41, 0.37), strict=True):
        mean = encoder * before + language * model
        assert mean == pytest.approx(wanted, abs=0.006)
        assert overall - mean > 0.04
    assert rows[64][2] > max(rows[64][:2])  # outside of what its own stages span


def test_12_the_shape_model_of_single_images_is_far_below_the_printed_time():
    for keep, printed in ((128, 1.10), (64, 1.07), (32, 1.06)):
        merges = schedules.allocate(576, keep, 23)
        ratio = flops.tower(576, merges, 1024, 4096, 1) / flops.tower(576, (0,) * 23, 1024, 4096, 1)
        assert ratio < 0.6 < printed
