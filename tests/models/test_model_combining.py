"""The feature stage where tokens are combined: against a literal computation from the unpruned tower, on every path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evoprune import AdaptivePool, EvoPrune, FasterVLM, KeepFirst, ToMe, UniformGrid, VisionZip, apply
from evoprune.models import graphs, picking
from evoprune.models.forms import unit_means
from evoprune.pruners import METHODS, FeaturePruner, FeatureView
from tests import builders
from tests.families import qwen_literal
from tests.families.table import CASES, model_of
from tests.models import literal as whole
from tests.tape import Tape
from tests.zipped import literal

CASE = {case.name: case for case in CASES}
PACKED = ["qwen2", "qwen2.5", "qwen3"]


def seen(model: Any, x: dict[str, Any], layer: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return what enters the projector, attention (I, H, T, T) and keys (I, T, D) of a block, and all hidden states.

    Of an unpruned forward, in float64 from the block's own queries and keys.
    """
    tower, found = model.model.vision_tower, {}
    blocks = tower.encoder.layers
    attention = blocks[layer].self_attn
    states: list[Tensor] = []
    hooks = [
        attention.q_proj.register_forward_hook(lambda module, args, output: found.update(q=output)),
        attention.k_proj.register_forward_hook(lambda module, args, output: found.update(k=output)),
        model.model.multi_modal_projector.register_forward_pre_hook(lambda module, args: found.update(x=args[0])),
        blocks[0].register_forward_pre_hook(lambda module, args: states.append(args[0])),
        *(block.register_forward_hook(lambda module, args, output: states.append(output)) for block in blocks),
    ]
    try:
        model(**x)
    finally:
        for hook in hooks:
            hook.remove()
    q, k = (found[name].double().unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for name in "qk")
    return found["x"], (q @ k.transpose(2, 3) * attention.head_dim**-0.5).softmax(-1), k.mean(1), states


def entering(model: Any, x: dict[str, Any]) -> Tensor:
    """Return what enters the projector now."""
    found: list[Tensor] = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(lambda module, args: found.append(args[0]))
    try:
        model(**x)
    finally:
        hook.remove()
    assert len(found) == 1
    return found[0]


def zipped(features: Tensor, scores: Tensor, keys: Tensor, cls: Tensor | None, counts: tuple[int, int]) -> list[Any]:
    """Return for each image the literal tokens, places and holders."""
    return [
        literal(
            features[n].double().tolist(), scores[n].tolist(), keys[n].tolist(),
            None if cls is None else cls[n].double().tolist(), *counts,
        )
        for n in range(len(features))
    ]  # fmt: skip


def check(found: Tensor, handle: Any, wanted: list[Any]) -> None:
    assert len(found) == len(wanted)
    for tokens, positions, sources, (rows, places, held, gap) in zip(
        found, handle.stats.positions, handle.stats.sources, wanted, strict=True
    ):
        assert gap > 1e-6
        assert positions.tolist() == places
        assert sources.tolist() == held
        torch.testing.assert_close(tokens.double(), torch.tensor(rows).double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [-2, -1, [-3, -1], [-1, -4]], ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_what_enters_the_projector_of_llava(layer: Any, attention: str) -> None:
    model = builders.model(attention=attention, feature_layer=layer)
    x = builders.inputs(["<image> a <image> <image> b"], [1, 2, 3])
    layers = [one % 7 for one in ([layer] if isinstance(layer, int) else layer)]
    features, weights, keys, states = seen(model, x, max(layers) - 1)
    cls = torch.cat([states[one][:, 0] for one in layers], dim=-1)
    wanted = zipped(features, weights[:, :, 0, 1:].sum(1), keys[:, 1:], cls, (12, 3))
    for batch in (None, 1, 2):
        with apply(model, VisionZip(16, contextual_ratio=0.2), encoder_batch=batch) as handle:
            check(entering(model, x), handle, wanted)
    with apply(model, VisionZip(15, contextual_ratio=0.2, cls=False)) as handle:
        check(entering(model, x), handle, zipped(features, weights[:, :, 0, 1:].sum(1), keys[:, 1:], None, (12, 3)))
    assert handle.stats.visual_tokens == (15,) * 3


@pytest.mark.parametrize("name", ["llava_next", "llava_next_video"])
@pytest.mark.parametrize("batch", [None, 2])
@torch.no_grad()
def test_each_tile_has_a_cls_of_its_own(name: str, batch: int | None) -> None:
    case = CASE[name]
    with model_of(case) as model:
        x = case.inputs([("a ", case.pictures[0], " b ", case.pictures[1])])
        layer = model.config.vision_feature_layer % (len(model.model.vision_tower.encoder.layers) + 1)
        features, weights, keys, states = seen(model, x, layer - 1)
        cls, scores = states[layer][:, 0], weights[:, :, 0, 1:].sum(1)
        keep = VisionZip(0.3).count(features.shape[1])
        few = int(keep * 10 / 64 + 0.5)
        with apply(model, VisionZip(0.3), encoder_batch=batch) as handle:
            check(entering(model, x), handle, zipped(features, scores, keys[:, 1:], cls, (keep - few - 1, few)))


@torch.no_grad()
def test_a_cls_that_the_language_model_sees_anyway_comes_once() -> None:
    model = builders.model(strategy="full")
    x = builders.inputs(["<image> a <image> b"], [1, 2], strategy="full")
    features, weights, keys, _ = seen(model, x, 4)
    wanted = zipped(features[:, 1:], weights[:, :, 0, 1:].sum(1), keys[:, 1:], None, (14, 2))
    with apply(model, VisionZip(16, contextual_ratio=2 / 16)) as handle:
        found = entering(model, x)
        assert torch.equal(found[:, 0], features[:, 0])
        check(found[:, 1:], handle, wanted)
        assert handle.stats.visual_tokens == (17,) * 2


@torch.no_grad()
def test_a_tower_without_cls_uses_the_attention_received() -> None:
    case = CASE["llava_onevision"]
    with model_of(case) as model:
        x = case.inputs([("a ", case.pictures[0], " b", case.videos[0])])
        last = model.config.vision_feature_layer % (len(model.model.vision_tower.encoder.layers) + 1) - 1
        picture = {k: v for k, v in x.items() if not k.startswith("pixel_values_videos")}
        picture["input_ids"] = case.inputs([("a ", case.pictures[0], " b")])["input_ids"]
        picture["attention_mask"] = torch.ones_like(picture["input_ids"])
        features, weights, keys, _ = seen(model, picture, last)
        keep = VisionZip(0.3).count(features.shape[1])
        contextual = int(keep * 10 / 64 + 0.5)
        wanted = zipped(features, weights.mean((1, 2)), keys, None, (keep - contextual, contextual))
        with apply(model, VisionZip(0.3)) as handle:
            check(entering(model, picture), handle, wanted)
            logits = model(**x).logits
        with apply(model, VisionZip(0.3), encoder_batch=1):
            torch.testing.assert_close(model(**x).logits, logits, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_original_positions_that_do_not_ascend(llava: Any) -> None:
    x = builders.inputs(["a <image> what <image> b c"], [4, 5])
    with apply(llava, VisionZip(16)) as handle:
        contiguous = llava(**x).logits
        features = list(llava.model.get_image_features(x["pixel_values"]).pooler_output)
        places = handle.stats.positions
    assert (places.diff(dim=1) < 0).any()
    full = int(x["attention_mask"].sum()) - 2 * 64 + 2 * 16
    assert contiguous.shape[1] == full
    ids = x["input_ids"][0]
    torch.testing.assert_close(contiguous[0], whole.logits(llava, ids, features, 64), atol=1e-5, rtol=1e-4)
    wanted = whole.logits(llava, ids, features, 64, places)
    with apply(llava, VisionZip(16, positions="original")):
        found = llava(**x).logits[0]
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        answer = llava.generate(**x, max_new_tokens=4, do_sample=False)[0, -4:]
    assert torch.equal(answer, whole.greedy(llava, ids, features, 64, 4, places))
    assert (found[-1] - contiguous[0, -1]).abs().max() > 1e-4


def last_attention(model: Any, x: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Return one picture's units (N, 4 C), scores (N,) and keys (N, D) in raster order, and the tower's output."""
    tower, found = model.model.visual, {}
    block = tower.blocks[-1]
    hooks = [
        block.register_forward_pre_hook(
            lambda module, args, kwargs: found.update(x=args[0], rope=kwargs["position_embeddings"]), with_kwargs=True
        ),
        tower.merger.register_forward_pre_hook(lambda module, args: found.update(units=args[0])),
    ]
    try:
        output = model.model.get_image_features(x["pixel_values"], x["image_grid_thw"])
    finally:
        for hook in hooks:
            hook.remove()
    q, k, _ = qwen_literal.rotated(block.attn, block.norm1(found["x"]), *found["rope"], block.attn.num_heads)
    logits = torch.einsum("qhd,khd->hqk", q.double(), k.double()) * block.attn.head_dim**-0.5
    order = qwen_literal.raster(tower, x["image_grid_thw"]).argsort()
    scores = logits.softmax(-1).mean((0, 1)).view(-1, 4).mean(1)
    keys = torch.nn.functional.normalize(k.double().mean(1), dim=-1).view(len(order), 4, -1).mean(1)
    return found["units"].view(len(order), -1)[order], scores[order], keys[order], output


def left_of(pruner: Any, values: Tensor, scores: Tensor, keys: Tensor, grid: tuple[int, int], keep: int) -> Any:
    """Return what a pruner leaves of one picture's (N, U) in raster order, and its places."""
    if not isinstance(pruner, VisionZip):
        view = FeatureView(values[None], grid=grid)
        chosen = pruner.select(view, keep)
        return pruner.combine(values[None], view, chosen)[0], chosen[0].tolist()
    few = int(keep * 10 / 64 + 0.5)
    tokens, places, _, gap = literal(values.tolist(), scores.tolist(), keys.tolist(), None, keep - few, few)
    assert gap > 1e-6
    return torch.tensor(tokens), places


def levels(output: Any) -> list[Tensor]:
    """Return the features of earlier layers, if there are any."""
    return [
        one if isinstance(one, Tensor) else torch.cat(one) for one in getattr(output, "deepstack_features", None) or []
    ]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("pruner", [VisionZip(0.4), AdaptivePool(9), KeepFirst(5), UniformGrid(5)], ids=repr)
@torch.no_grad()
def test_packed_towers_and_the_features_of_their_earlier_layers(name: str, pruner: Any) -> None:
    """Windows of Qwen2.5-VL, deepstack of Qwen3-VL: units come in raster order, and everything follows the choice."""
    case, compared = CASE[name], 0
    with model_of(case) as model:
        for picture in case.pictures:
            x = case.inputs([("a ", picture, " b")])
            rows, columns = (n // 2 for n in x["image_grid_thw"][0, 1:].tolist())
            if rows * columns < 12:
                continue
            units, *shown, native = last_attention(model, x)
            keep = pruner.tokens_after(len(units))
            kept, places = left_of(pruner, units, *shown, (rows, columns), keep)
            deep = [left_of(pruner, one, *shown, (rows, columns), keep)[0] for one in levels(native)]
            assert bool(deep) == (name == "qwen3")
            tokens = model.model.visual.merger(kept.reshape(keep * 4, -1))
            with apply(model, pruner) as handle:
                output = model.model.get_image_features(x["pixel_values"], x["image_grid_thw"])
                (found,) = handle.stats.positions
            assert found.tolist() == places
            for one, other in zip([output.pooler_output[0], *levels(output)], [tokens, *deep], strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
            compared += 1
    assert compared > 2


@pytest.mark.parametrize("name", PACKED)
@torch.no_grad()
def test_three_axis_positions_follow_the_places(name: str) -> None:
    case = CASE[name]
    rows = [("see ", case.pictures[3], " what ?"), ("a ", case.pictures[5], " b")]
    found: list[Tensor] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        found.append(kwargs["position_ids"][-3:])

    with model_of(case) as model:
        x = case.inputs(rows)
        with model.model.language_model.register_forward_pre_hook(look, with_kwargs=True):
            model(**x)
        # Behind the hook that gives the language model its positions.
        with (
            apply(model, VisionZip(0.4)) as handle,
            model.model.language_model.register_forward_pre_hook(look, with_kwargs=True),
        ):
            model(**x)
            places = list(handle.stats.positions)
    native, pruned = found
    assert any((kept.diff() < 0).any() for kept in places)
    for row, kept in enumerate(places):
        is_image = x["input_ids"][row] == model.config.image_token_id
        begin, full = int(is_image.nonzero()[0]), int(is_image.sum())
        # Rows are padded on the left: what is behind the picture lies equally far from the end.
        end = pruned.shape[2] - (native.shape[2] - begin - full)
        assert torch.equal(pruned[:, row, end - len(kept) : end], native[:, row, begin + kept])
        assert torch.equal(pruned[:, row, end:], native[:, row, begin + full :])


class Spy(FeaturePruner):
    """Keeps the first tokens, and what it was shown."""

    name, source, summary = "spy", "a test", "a test"
    wants: frozenset[str] = frozenset(["importance", "keys", "cls"])

    @property
    def needs(self) -> frozenset[str]:
        return self.wants

    def select(self, view: FeatureView, keep: int) -> Tensor:
        views.append(view)
        return torch.arange(keep).expand(len(view.features), keep)


views: list[FeatureView] = []


@pytest.fixture
def spy(monkeypatch: Any) -> list[FeatureView]:
    views.clear()
    monkeypatch.setattr(Spy, "wants", Spy.wants)
    return views


@torch.no_grad()
def test_what_methods_are_shown(llava: Any, spy: list[FeatureView], monkeypatch: Any) -> None:
    x = builders.inputs(["<image> a <image> b"], [1, 2])
    with apply(llava, Spy(8)):
        llava(**x)
    with apply(llava, [EvoPrune(32), Spy(8)]):
        llava(**x)
    monkeypatch.setattr(Spy, "wants", frozenset(["projected", "cls", "keys"]))
    with apply(llava, Spy(8)):
        llava(**x)
    plain, merged, late = spy
    assert plain.grid == late.grid == (8, 8)
    assert merged.grid is None
    assert plain.features.shape == (2, 64, 32)
    assert plain.keys.shape == late.keys.shape == (2, 64, 8)
    assert plain.importance.shape == (2, 64)
    assert plain.cls.shape == merged.cls.shape == (2, 32)
    assert late.cls is None  # it does not go through the projector
    assert merged.keys.shape == (2, 32, 8)
    assert plain.relevance is plain.owners is None
    for case in ("internvl", "llava_next", "qwen2.5", "idefics3", "gemma3"):
        monkeypatch.setattr(Spy, "wants", frozenset(["importance", "keys", "cls"]))
        spy.clear()
        with model_of(CASE[case]) as model, apply(model, Spy(0.25)) as handle:
            model(**CASE[case].inputs([("a ", CASE[case].pictures[2], " b")]))
            side = {"internvl": 2, "qwen2.5": 2, "idefics3": 2}.get(case, 1)
            for view in spy:
                grid = next(one for one in handle.stats.grids if one[0] * one[1] == side**2 * view.features.shape[1])
                assert view.grid == (grid[0] // side, grid[1] // side)
                assert view.keys.shape[:2] == view.importance.shape == view.features.shape[:2]
                assert (view.cls is not None) == (case == "llava_next")


@torch.no_grad()
def test_what_merges_in_the_feature_layer_takes_its_keys_along(llava: Any, spy: list[FeatureView]) -> None:
    """Attention is added up, keys are averaged by size; both as of before that merge."""
    pruner = EvoPrune(0.5, schedule=(0, 16, 0, 0, 16))
    x = builders.inputs(["<image> a"], [3])
    with apply(llava, [pruner, Spy(8)]) as handle:
        llava(**x)
        (run,) = handle.stats._state.all_runs
        (group,) = run.groups
    with apply(llava, [EvoPrune(48, schedule=(0, 16, 0, 0, 0)), Spy(8)]):
        llava(**x)
    after, before = spy
    matching = group.matchings[1]
    sizes = torch.ones(48)
    survivors = torch.ones(64)
    gone, targets = group.matchings[0].source[0].tolist(), group.matchings[0].target[0].tolist()
    for one, other in zip(gone, targets, strict=True):
        survivors[other] += survivors[one]
    sizes = survivors[[i for i in range(64) if i not in gone]]
    keys, total, scores = before.keys[0].double() * sizes[:, None], sizes.clone(), before.importance[0].clone()
    gone = matching.source[0].tolist()
    for one, other in zip(gone, matching.target[0].tolist(), strict=True):
        keys[other] += before.keys[0, one].double() * sizes[one]
        total[other] += sizes[one]
        scores[other] += before.importance[0, one]
    left = [i for i in range(48) if i not in gone]
    torch.testing.assert_close(after.keys[0].double(), (keys / total[:, None])[left], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(after.importance[0], scores[left], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["llava_next", "qwen2.5"])
@torch.no_grad()
def test_relevance_is_shown_of_all_chunks_together(name: str, spy: list[FeatureView], monkeypatch: Any) -> None:
    """A picture's tiles may lie in several chunks of a batched tower, and its relevance spreads over all of them."""
    asked: list[Any] = []

    def relevance(state: Any, group: Any, run: Any, projected: Tensor, units: Tensor | None) -> Any:
        asked.append((projected, units))
        return projected.float().mean(-1), torch.full((len(projected),), len(asked))

    monkeypatch.setattr(picking, "relevance", relevance)
    monkeypatch.setattr("evoprune.models.features.install_relevance", lambda *_: None)
    monkeypatch.setattr("evoprune.models.features.wants_tower", lambda state: name == "llava_next")
    monkeypatch.setattr(Spy, "wants", frozenset(["relevance"]))
    case, tiles = CASE[name], []
    with model_of(case) as model:
        x = case.inputs([("a ", case.pictures[2], " b")])
        for batch in (None, 1):
            with apply(model, Spy(4), encoder_batch=batch) as handle:
                logits = model(**x).logits
                tiles.append(len(handle.stats.grids))
            if batch is None:
                whole_view, whole_logits = spy[0], logits
                spy.clear(), asked.clear()
        torch.testing.assert_close(logits, whole_logits, atol=1e-5, rtol=1e-4)
        assert len(spy) == 1 and len(asked) == (tiles[1] if name == "llava_next" else 1)
        torch.testing.assert_close(spy[0].relevance, whole_view.relevance, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(spy[0].features, whole_view.features, atol=1e-5, rtol=1e-4)
        assert spy[0].owners.tolist() == list(range(1, 1 + len(asked)))
        if name == "llava_next":
            features = [projected for projected, _ in asked]
            through = [model.model.multi_modal_projector(units) for _, units in asked]
            torch.testing.assert_close(torch.cat(features), torch.cat(through), atol=1e-5, rtol=1e-4)


def feature_pruner(method: str, keep: int) -> Any:
    settings = {"text_tower": "embeddings"} if hasattr(METHODS[method], "text_tower") else {}
    return METHODS[method](keep, **settings)


FEATURES = [name for name, method in METHODS.items() if method.stage == "feature"]
BEFORE = {
    "evoprune": EvoPrune(32),
    "tome": ToMe(40),
    "other-order": ToMe(40, order="tome"),
    "in-the-last-layer": EvoPrune(48, schedule=(0, 0, 0, 0, 16)),
}


@pytest.mark.parametrize("method", FEATURES)
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@torch.no_grad()
def test_every_method_behind_a_pruner_of_the_encoder(llava: Any, method: str, before: Any) -> None:
    x = builders.inputs(["<image> what is this ?", "a <image> b <image> c"], [1, 2, 3])
    pruner = feature_pruner(method, 10)
    count = pruner.tokens_after(before.keep)
    with apply(llava, [before, pruner]) as handle:
        logits = llava(**x).logits
        positions, sources = handle.stats.positions, handle.stats.sources
        assert handle.stats.visual_tokens == (count,) * 3
        assert positions.shape == (3, count) and sources.shape == (3, 64)
        assert int(sources.max()) == count - 1 and int(sources.min()) >= -1
        assert int(positions.min()) >= 0 and int(positions.max()) < 64
        held = sources.gather(1, positions)
        first = method == "visionzip"  # CLS stands where the picture begins, and holds no unit
        assert torch.equal(held[:, first:], torch.arange(first, count).expand(3, -1)) or method == "pool"
    with apply(llava, [before, pruner], encoder_batch=2) as handle:
        torch.testing.assert_close(llava(**x).logits, logits, atol=1e-5, rtol=1e-4)
        assert torch.equal(handle.stats.positions, positions) and torch.equal(handle.stats.sources, sources)


@torch.no_grad()
def test_units_are_shown_in_raster_order_where_the_encoder_leaves_another(llava: Any, spy: list[FeatureView]) -> None:
    x = builders.inputs(["<image> a"], [1])
    for order in ("raster", "tome"):
        with apply(llava, [ToMe(32, order=order, schedule=(32, 0, 0, 0, 0)), Spy(8)]) as handle:
            llava(**x)
            assert (handle.stats.positions.diff(dim=1) > 0).all()
    raster, tome = spy
    torch.testing.assert_close(raster.features, tome.features, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(raster.importance, tome.importance, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(raster.keys, tome.keys, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pruners", [VisionZip(16), [EvoPrune(32), VisionZip(8)]], ids=repr)
@pytest.mark.parametrize("batch", [None, 1])
@torch.no_grad()
def test_a_recorded_tower_shows_the_same(llava: Any, pruners: Any, batch: int | None, monkeypatch: Any) -> None:
    monkeypatch.setattr(graphs, "cuda_graphs", lambda device: Tape)
    monkeypatch.setattr(graphs, "_one_cuda_device", lambda family: torch.device("cpu"))
    inputs = [builders.inputs(["<image> a <image>"], [seed, seed + 1]) for seed in (1, 3)]
    with apply(llava, pruners, encoder_batch=batch) as handle:
        wanted = [(llava(**x).logits, handle.stats.positions, handle.stats.sources) for x in inputs]
    with apply(llava, pruners, encoder_batch=batch, encoder_mode="cudagraph") as handle:
        for x, (logits, positions, sources) in zip(inputs, wanted, strict=True):
            assert torch.equal(llava(**x).logits, logits)
            assert torch.equal(handle.stats.positions, positions) and torch.equal(handle.stats.sources, sources)
        assert handle.stats.encoder_mode == "cudagraph"


@pytest.mark.parametrize("pruner", [VisionZip(16), AdaptivePool(16)], ids=repr)
def test_gradients_reach_the_tower_and_all_of_the_picture(pruner: Any) -> None:
    model = builders.model()
    x = builders.inputs(["<image> a"], [1])
    x["pixel_values"].requires_grad_()
    with apply(model, pruner):
        model(**x).logits.sum().backward()
    assert x["pixel_values"].grad.isfinite().all() and (x["pixel_values"].grad != 0).all()
    assert model.model.vision_tower.embeddings.class_embedding.grad.abs().sum() > 0


@torch.no_grad()
def test_the_embeddings_have_no_attention_to_show() -> None:
    model = builders.model(feature_layer=[0])
    for pruner, needs in ((VisionZip(16), "visionzip needs importance and keys"), (FasterVLM(16), "needs importance")):
        with pytest.raises(ValueError, match=f"selects the embeddings.*{needs} of one: choose a later feature layer"):
            apply(model, pruner)
    with apply(model, AdaptivePool(16)) as handle:
        model(**builders.inputs(["<image> a"], [1]))
        assert handle.stats.visual_tokens == (16,)


def test_unit_means_of_keys() -> None:
    keys = torch.randn(2, 3, 4 * 5)
    wanted = torch.stack([one / one.norm(dim=-1, keepdim=True) for one in keys.view(2, 3, 4, 5).unbind(2)]).mean(0)
    torch.testing.assert_close(unit_means(keys, 4), wanted)
