"""Checks of each kernel on any device: against the plain torch path, and against float64 straight from the formulas."""

from __future__ import annotations

import torch

from evoprune import ops
from evoprune.ops import kernels
from evoprune.ops.density import distinct_from
from evoprune.ops.kernels.density import nearest, norms, weights
from evoprune.ops.kernels.merging import merge_rows
from evoprune.ops.kernels.order import deal, pick
from evoprune.ops.kernels.pairs import best_pairs
from evoprune.ops.kernels.received import column_means
from evoprune.ops.kernels.scores import best_partners
from tests.ops.kernels.compare import Differences, differences, pair_scores

# Operands are rounded to their dtype before both paths see them, and products are summed in float32 for all dtypes.
# Tensor cores cut those sums off (bfloat16, float16), so cosines of wide tokens come out up to a few 1e-6 too small.
COSINE = {torch.float32: 2e-6, torch.bfloat16: 2e-5, torch.float16: 2e-5}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def crowd(batch: int, length: int, width: int, seed: int = 0) -> torch.Tensor:
    """Clusters, as in real pictures."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, max(2, length // 6), width, generator=rng)
    member = torch.randint(centres.shape[1], (batch, length), generator=rng)
    near = centres.gather(1, member.unsqueeze(2).expand(-1, -1, width))
    return near + 0.3 * torch.randn(batch, length, width, generator=rng)


def received(
    device, dtype, *, batch=2, heads=2, key_heads=None, queries=17, keys=None, width=64, lse=False, bias=False,
    mask=False, transposed=True,
):  # fmt: skip
    """Column means: against the torch path and, in float64, the formula."""
    key_heads, keys = key_heads or heads, keys or queries
    query, key = normal(batch, queries, heads, width), normal(batch, keys, key_heads, width, seed=1)
    query, key = ((3 * t).to(device, dtype).transpose(1, 2) for t in (query, key))
    if not transposed:
        query, key = query.contiguous(), key.contiguous()
    key_bias = query_mask = None
    if bias:
        key_bias = normal(batch, keys, seed=2).to(device)
        key_bias[0, keys // 2 :] = float("-inf")
        key_bias[-1] = float("-inf") if bias == "all" else key_bias[-1]
    if mask:
        query_mask = (normal(batch, queries, seed=3) > 0).to(device)
        query_mask[-1] = False
    scaling = width**-0.5
    logits = query.double() @ key.double().repeat_interleave(heads // key_heads, 1).transpose(2, 3) * scaling
    if key_bias is not None:
        logits = logits + key_bias.double()[:, None, None]
    sums = logits.logsumexp(-1).float().contiguous() if lse else None
    found = column_means(query, key, scaling, lse=sums, key_bias=key_bias, query_mask=query_mask)
    if device != "cpu":
        again = column_means(query, key, scaling, lse=sums, key_bias=key_bias, query_mask=query_mask)
        assert torch.equal(found, again)
    assert found.dtype == torch.float32 and found.shape == (batch, keys)
    weight = torch.ones(batch, queries, device=device) if query_mask is None else query_mask.double()
    share = weight / weight.sum(1, keepdim=True).clamp(min=1)
    wanted = (logits.softmax(-1).nan_to_num() * share[:, None, :, None]).sum(2).mean(1)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-4, atol=1e-7)
    with kernels.reference_path():
        plain = ops.received_attention(query, key, scaling, key_bias=key_bias, query_mask=query_mask)
    torch.testing.assert_close(found, plain, rtol=2e-4, atol=1e-6)


def neighbours(device, dtype, *, batch=2, length=33, width=48, neighbors=5, strided=False):
    """Lengths and nearest neighbours, with zeros and duplicates among the tokens."""
    tokens = crowd(batch, length, width)
    tokens[0, 0] = 0
    half = length // 2
    tokens[-1, half : 2 * half] = tokens[-1, :half]  # duplicates far apart
    tokens[-1, -1] = 2 * tokens[-1, half - 1]  # the same direction, another length
    tokens = tokens.to(device, dtype)
    if strided:
        tokens = torch.cat((tokens, tokens), dim=2)[..., :width]
    inverse = norms(tokens)
    length_64 = torch.linalg.vector_norm(tokens.double(), dim=2)
    assert inverse[0, 0] == 0
    torch.testing.assert_close(inverse.double() * length_64, (length_64 > 0).double(), rtol=0, atol=COSINE[dtype])
    found = nearest(tokens, inverse, neighbors)
    assert found.dtype == torch.float32 and found.shape == (batch, length, neighbors)
    if device != "cpu":
        assert torch.equal(found, nearest(tokens, inverse, neighbors))
    found = found.sort(dim=-1, descending=True).values
    cosine = pair_scores(tokens, diversity=0)
    cosine.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    k = min(neighbors, length - 1)
    wanted = cosine.topk(k, dim=-1).values
    torch.testing.assert_close(found[..., :k].double(), wanted, rtol=0, atol=COSINE[dtype])
    assert (found[..., k:] == float("-inf")).all()
    assert (2 - 2 * found[-1, :, 0] < 1e-6).all()  # each has a duplicate, and its distance is 0


def partners(
    device, dtype, *, batch=2, givers=17, takers=16, width=48, similarity="cosine", weighted=True, barred="some",
    sliced=False, seed=0,
):  # fmt: skip
    """Best partners: the score within rounding of the best, the first one among equals."""
    length = givers + takers + 3
    tokens = crowd(batch, length, width, seed).to(device, dtype)
    order = torch.stack([torch.randperm(length, generator=torch.Generator().manual_seed(b)) for b in range(batch)])
    first, second = order[:, :givers].contiguous(), order[:, givers : givers + takers].contiguous()
    if sliced:
        both = torch.arange(length).expand(batch, length)
        first, second = both[:, 0::2], both[:, 1::2]
    if second.shape[1] > 4:
        tokens[0, second[0, 3]] = tokens[0, second[0, 1]]  # whoever likes one likes the other, and takes the first
    first, second = first.to(device), second.to(device)
    out = torch.zeros(second.shape, dtype=torch.bool, device=device)
    if barred == "some":
        out[:, 2::3] = True
    elif barred == "all":
        out[:] = True
    weight = torch.rand(batch, length, generator=torch.Generator().manual_seed(9)).to(device) if weighted else None
    if weight is not None and second.shape[1] > 4:
        weight[0, second[0, 3]] = weight[0, second[0, 1]]
    inverse = norms(tokens)
    given = None if barred == "none" else out
    best, choice = best_partners(tokens, inverse, weight, first, second, given, similarity)
    if device != "cpu":
        again = best_partners(tokens, inverse, weight, first, second, given, similarity)
        assert torch.equal(best, again[0]) and torch.equal(choice, again[1])
    assert best.dtype == torch.float32 and choice.dtype == torch.int64 and best.shape == choice.shape == first.shape
    if barred == "all":
        assert (best == float("-inf")).all() and (choice == 0).all()
        return
    image = torch.arange(batch, device=device)[:, None]
    cosine = pair_scores(tokens, diversity=0)[image[:, :, None], first[:, :, None], second[:, None, :]]
    score = cosine.sigmoid() if similarity == "sigmoid" else cosine
    if similarity == "softmax":
        score = cosine.masked_fill(out[:, None], float("-inf")).softmax(-1)
    if weight is not None:
        score = score * weight[image, first].double()[:, :, None] * weight[image, second].double()[:, None]
    score = score.masked_fill(out[:, None], float("-inf"))
    wanted = score.amax(-1)
    torch.testing.assert_close(best.double(), wanted, rtol=0, atol=COSINE[dtype])
    chosen = score.gather(2, choice[:, :, None]).squeeze(2)
    assert ((wanted - chosen) < 2 * COSINE[dtype]).all()
    if second.shape[1] > 4:
        assert (choice[0] != 3).all()  # 1 is the same and comes first


def merging(device, dtype, *, batch=3, length=17, width=48, merges=8, equal=False, order="raster", strided=False):
    """Merged rows against the torch path; what receives nothing, bit by bit, also beside infinities and NaN."""
    rng = torch.Generator().manual_seed(length)
    index = torch.stack([torch.randperm(length, generator=rng) for _ in range(batch)])
    source, rest = index[:, :merges], index[:, merges:]
    target = rest.gather(1, torch.randint(min(3, rest.shape[1]), (batch, merges), generator=rng))
    target[-1] = rest[-1, :merges] if rest.shape[1] >= merges else target[-1]  # no target twice, in one image
    kept = rest.sort(dim=1).values
    second = torch.rand(batch, length, generator=rng) < 0.5
    found = ops.Matching(*(t.to(device) for t in (source, target, kept, second)))
    tokens = normal(batch, length, width).to(device, dtype)
    lonely = next((i for i in kept[0].tolist() if i not in target[0].tolist()), None)
    if lonely is not None:
        tokens[0, lonely, 0], tokens[0, lonely, -1] = float("nan"), float("inf")
        tokens[0, lonely, 1] = torch.finfo(dtype).smallest_normal / 4
    if strided:
        tokens = torch.cat((tokens, tokens), dim=2)[..., :width]
    sizes = (1 + 3 * torch.rand(batch, length, generator=rng)).to(device)
    rows = ops.survivors(found, order)
    got, total = merge_rows(tokens, sizes, found.source, found.target, rows, equal)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    if device != "cpu":
        again = merge_rows(tokens, sizes, found.source, found.target, rows, equal)[0]
        assert torch.equal(got.view(bits), again.view(bits))
    with kernels.reference_path():
        wanted, sums = ops.merge(tokens, sizes, found, weights="equal" if equal else "size", order=order)
    assert got.dtype == dtype and got.shape == wanted.shape
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(got, wanted, rtol=2 * step, atol=2 * step, equal_nan=True)
    torch.testing.assert_close(total, sums, rtol=1e-6, atol=0)
    image = torch.arange(batch, device=device)[:, None]
    untouched = ~(rows[:, :, None] == found.target[:, None, :]).any(2)
    assert torch.equal(got.view(bits)[untouched], tokens[image, rows].view(bits)[untouched])
    assert torch.equal(total[untouched], sizes[image, rows][untouched])


def whole(tokens, importance, merges, *, critical_ratio=0.25, **settings):
    size = ops.protected_count(tokens.shape[1], merges, critical_ratio)
    chosen = {"neighbors": 5, "bandwidth": None, "diversity": 1.0, "similarity": "cosine", "partition": "mergeable"}
    found = best_pairs(tokens, importance, merges, size, **chosen | settings)
    assert found is not None, kernels.status()
    return ops.Matching(*found)


def matching(device, dtype, *, batch=2, length=33, width=48, merges=8, **settings) -> Differences:
    """The whole choice: the same merges as the torch path, but for ties."""
    tokens = crowd(batch, length, width).to(device, dtype)
    importance = torch.rand(batch, length, generator=torch.Generator().manual_seed(1)).to(device)
    found = whole(tokens, importance, merges, **settings)
    with kernels.reference_path():
        wanted = ops.match(tokens, importance, merges, **settings)
    assert torch.equal(found.second, wanted.second)
    sigmoid = settings.get("similarity") == "sigmoid"
    scores = pair_scores(tokens, diversity=settings.get("diversity", 1.0), sigmoid=sigmoid)
    result = differences(found, wanted, scores, tolerance=5 * COSINE[dtype])
    print(f"{dtype} {tuple(tokens.shape)} {settings}: {result.pairs} pairs, {result.ties} ties")
    assert result.wrong == 0
    return result


def weighing(device, *, batch=3, length=70, neighbors=5, diversity=0.7, bandwidth=None):
    """exp(-lambda d) from nearest cosines; a picture of equals has d = 0."""
    near = 1 - normal(batch, length, neighbors).abs().to(device) / 2
    near[0] = 1.0
    near[1, 0] = 1.0 + 1e-7
    found = weights(near, diversity, bandwidth)
    wanted = torch.exp(-diversity * distinct_from(near, bandwidth))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert (found[0] == 1).all()


def ordering(device, *, batch=3, length=33, merges=8, size=9, partition="mergeable", kind="normal"):
    """Groups, costs, winners and survivors, exactly as torch sorts them."""
    importance = normal(batch, length).to(device)
    if kind == "equal":
        importance = importance.round()
        importance[0] = -0.0
        importance[0, ::2] = 0.0
    elif kind == "broken":
        importance[:, ::3], importance[:, 1] = float("nan"), float("-inf")
    dealt = deal(importance if size else None, (batch, length), size, partition == "mergeable", importance.device)
    ranked = torch.sort(importance, dim=-1, descending=True, stable=True).indices
    index = torch.arange(length, device=device).expand(batch, length)
    cost = torch.zeros_like(ranked).scatter(1, ranked, (size - index).clamp(min=0))
    for b in range(batch):
        listed = [t for t in range(length) if partition == "index" or cost[b, t] == 0]
        assert dealt.first[b].tolist() == listed[0::2]
        assert dealt.second[b].tolist() == listed[1::2]
        assert dealt.first_cost[b].tolist() == [int(cost[b, t]) for t in listed[0::2]]
        assert dealt.second_cost[b].tolist() == [int(cost[b, t]) for t in listed[1::2]]
        assert dealt.member[b].nonzero().flatten().tolist() == listed[1::2]
    best = normal(*dealt.first.shape, seed=4).to(device)
    if kind == "equal":
        best = best.round()
    elif kind == "broken":
        best[:, ::2], best[:, 1:2] = float("nan"), float("-inf")
    rng = torch.Generator().manual_seed(5)
    choice = torch.randint(dealt.second.shape[1], best.shape, generator=rng).to(device)
    rank = torch.where(dealt.first_cost == 0, best, -1.0 - dealt.first_cost)
    winners = torch.sort(rank, dim=-1, descending=True, stable=True).indices[:, :merges]
    source, target, kept = pick(best, choice, dealt, merges)
    assert torch.equal(source, dealt.first.gather(1, winners))
    assert torch.equal(target, dealt.second.gather(1, choice.gather(1, winners)))
    for b in range(batch):
        assert kept[b].tolist() == sorted(set(range(length)) - set(source[b].tolist()))
