"""The tower by recorded graphs: a tape stands in for the GPU, and replays without running any Python of the tower."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from evoprune.apply import apply
from evoprune.models import graphs, recording
from evoprune.models.trees import mapped, outline, tensors
from evoprune.ops import kernels
from evoprune.pruners import Downsample, EvoPrune, Random
from tests import builders
from tests.families.case import Picture, Video
from tests.families.table import CASES, model_of
from tests.tape import Tape

CASE = {case.name: case for case in CASES}


@pytest.fixture
def tapes(monkeypatch: Any) -> list[Tape]:
    """All tapes that are recorded, in the place of CUDA graphs."""
    made: list[Tape] = []

    def new() -> Tape:
        made.append(Tape())
        return made[-1]

    monkeypatch.setattr(graphs, "cuda_graphs", lambda device: new)
    monkeypatch.setattr(graphs, "_one_cuda_device", lambda family: torch.device("cpu"))
    return made


@pytest.fixture(autouse=True)
def _as_a_user_generates() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def pixels(seed: int, images: int = 2) -> torch.Tensor:
    return torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def facts(handle: Any) -> tuple[Any, ...]:
    stats = handle.stats
    rows = [list(value) for value in (stats.sources, stats.positions)]
    return stats.tokens, stats.visual_tokens, stats.flops, [[one.tolist() for one in row] for row in rows]


def features(model: Any, values: torch.Tensor, handle: Any) -> tuple[torch.Tensor, Any]:
    found = model.model.get_image_features(pixel_values=values, return_dict=True).pooler_output
    return (found if isinstance(found, torch.Tensor) else torch.cat(list(found))), facts(handle)


@pytest.mark.parametrize(
    "pruners",
    [
        EvoPrune(16),
        EvoPrune(16, order="tome", proportional_attention=True),
        [Downsample(36), EvoPrune(18), Random(9)],
        [EvoPrune(40, schedule="every:3"), Random(7)],
        EvoPrune(1.0),
    ],
    ids=repr,
)
def test_replays_equal_the_eager_tower_and_leave_what_was_handed_out(llava: Any, tapes: Any, pruners: Any) -> None:
    with apply(llava, pruners) as handle:
        wanted = [features(llava, pixels(seed), handle) for seed in (1, 2, 3)]
        hidden = llava.model.vision_tower(pixels(1)).last_hidden_state
    ran = []
    watch = llava.model.vision_tower.encoder.layers[0].register_forward_hook(lambda *_: ran.append(1))
    with apply(llava, pruners, encoder_mode="cudagraph") as handle:
        assert handle.stats.encoder_mode == "eager"  # nothing ran yet
        found = [features(llava, pixels(seed), handle) for seed in (1, 2, 3)]
        assert handle.stats.encoder_mode == "cudagraph"
        assert len(tapes) == 1 and tapes[0].replays == 3 and len(ran) == 1
        kept = llava.model.vision_tower(pixels(1)).last_hidden_state
        llava.model.vision_tower(pixels(2))
        assert torch.equal(kept, hidden)
    watch.remove()
    for (one, told), (other, expected) in zip(found, wanted, strict=True):
        assert torch.equal(one, other) and told == expected


def test_stats_can_be_read_late_and_outlive_the_handle(llava: Any, tapes: Any) -> None:
    with apply(llava, EvoPrune(16)) as handle:
        llava.model.get_image_features(pixel_values=pixels(2))
        wanted = facts(handle)
    with apply(llava, EvoPrune(16), encoder_mode="cudagraph") as handle:
        llava.model.get_image_features(pixel_values=pixels(1))
        (earlier,) = handle.stats._state.all_runs
        kept, sizes = earlier.sources(), earlier.groups[0].sizes
        before = [row.clone() for row in kept], sizes.clone()
        llava.model.get_image_features(pixel_values=pixels(2))
        again = earlier.sources()
    assert facts(handle) == wanted
    assert all(torch.equal(a, b) for a, b in zip(before[0], again, strict=True)) and torch.equal(sizes, before[1])


def test_pictures_and_videos_of_one_call_do_not_overwrite_each_other(tapes: Any) -> None:
    case = CASE["llava_onevision"]
    rows = [("a ", Picture(17, 19, 1), " b ", Video(2, 40, 44, 2), " what ?")]  # two tiles and two frames
    with model_of(case) as model:
        x = case.inputs(rows)
        with apply(model, EvoPrune(case.keep)) as handle:
            wanted = model(**x).logits, facts(handle)
        with apply(model, EvoPrune(case.keep), encoder_mode="cudagraph") as handle:
            for _ in range(2):
                assert torch.equal(model(**x).logits, wanted[0]) and facts(handle) == wanted[1]
    assert sum(tape.replays for tape in tapes) == 4


def test_a_picture_and_a_frame_of_one_shape_have_budgets_of_their_own(tapes: Any) -> None:
    case = CASE["llava_next_video"]  # half of a frame's pooled tokens are fewer than half of a tile's
    rows = [("a ", Picture(17, 19, 1), " b ", Video(2, 40, 44, 2), " what ?")]
    with model_of(case) as model:
        x = case.inputs(rows)
        pruner = EvoPrune(0.5, schedule="mean")
        with apply(model, pruner, encoder_batch=1) as handle:
            wanted = model(**x).logits, facts(handle)
        with apply(model, pruner, encoder_batch=1, encoder_mode="cudagraph") as handle:
            assert torch.equal(model(**x).logits, wanted[0]) and facts(handle) == wanted[1]
            assert handle.stats.encoder_mode == "cudagraph"
    assert len(tapes) == 2


def test_units_and_what_a_family_does_behind_the_tower(tapes: Any) -> None:
    case = CASE["internvl"]
    with model_of(case) as model:
        for pruners in (EvoPrune(4, schedule="mean"), [EvoPrune(9, schedule="mean"), Random(4)]):
            inputs = [case.inputs([("a ", Picture(40, 40, seed), " b")]) for seed in (1, 2)]
            with apply(model, pruners) as handle:
                wanted = [(model(**x).logits, facts(handle)) for x in inputs]
            with apply(model, pruners, encoder_mode="cudagraph") as handle:
                for x, (logits, told) in zip(inputs, wanted, strict=True):
                    assert torch.equal(model(**x).logits, logits) and facts(handle) == told
                assert handle.stats.encoder_mode == "cudagraph"


def test_chunks_each_replay_their_graph(llava: Any, tapes: Any) -> None:
    with apply(llava, EvoPrune(16), encoder_batch=2) as handle:
        wanted = features(llava, pixels(1, 5), handle)
    with apply(llava, EvoPrune(16), encoder_batch=2, encoder_mode="cudagraph") as handle:
        for _ in range(2):
            found = features(llava, pixels(1, 5), handle)
            assert torch.equal(found[0], wanted[0]) and found[1] == wanted[1]
    assert [tape.replays for tape in tapes] == [4, 2]  # two chunks of two pictures, one of one


def test_a_graph_for_each_shape_and_the_least_recently_used_goes(llava: Any, tapes: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(graphs, "LIMIT", 2)
    with apply(llava, EvoPrune(16), encoder_mode="cudagraph"):
        for images in (1, 2, 1, 3, 1, 2):  # 3 displaces 2, which comes anew
            llava.model.get_image_features(pixel_values=pixels(1, images))
    assert [tape.replays for tape in tapes] == [3, 1, 1, 1]


def test_weights_that_moved_are_recorded_anew(tapes: Any) -> None:
    model = builders.model()
    with apply(model, EvoPrune(16), encoder_mode="cudagraph") as handle:
        features(model, pixels(1), handle)
        model.model.vision_tower.encoder.layers[1].mlp.fc1.weight.mul_(2)  # in place: the graph reads it
        changed = features(model, pixels(1), handle)[0]
        assert len(tapes) == 1
        weight = model.model.vision_tower.encoder.layers[1].mlp.fc1.weight
        weight.data = weight.data.clone()  # a captured kernel would read memory that is free now
        assert torch.equal(features(model, pixels(1), handle)[0], changed) and len(tapes) == 2
        model.double()
        moved = features(model, pixels(1).double(), handle)[0]
        assert len(tapes) == 3 and moved.dtype == torch.float64
    with apply(model, EvoPrune(16)) as handle:
        assert torch.equal(moved, features(model, pixels(1).double(), handle)[0])
        model.float()
        assert torch.equal(changed, features(model, pixels(1), handle)[0])


def test_what_graphs_cannot_do_runs_eagerly_without_a_word(llava: Any, tapes: Any) -> None:
    tower = llava.model.vision_tower
    with apply(llava, EvoPrune(16)):
        states = tower(pixels(1), output_hidden_states=True).hidden_states
        with torch.autocast("cpu", torch.bfloat16):
            halves = tower(pixels(1)).last_hidden_state
    with apply(llava, EvoPrune(16), encoder_mode="cudagraph") as handle:
        found = tower(pixels(1), output_hidden_states=True).hidden_states
        assert len(found) == len(states) and all(torch.equal(a, b) for a, b in zip(found, states, strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(tower(pixels(1)).last_hidden_state, halves)
        with torch.enable_grad():
            values = pixels(1).requires_grad_()
            tower(values).last_hidden_state.sum().backward()
            assert values.grad is not None
            llava.zero_grad(set_to_none=True)
        tower.train()
        tower(pixels(1))
        tower.eval()
        assert not tapes and handle.stats.encoder_mode == "eager"
        with torch.inference_mode():
            features(llava, pixels(1), handle)
        features(llava, pixels(2), handle)  # buffers of inference mode would refuse to be written to
        assert len(tapes) == 2 and handle.stats.encoder_mode == "cudagraph"


@pytest.mark.parametrize("features_too", [False, True])
def test_a_capture_that_fails_anywhere_leaves_nothing_behind(
    llava: Any, tapes: Any, monkeypatch: Any, features_too: bool
) -> None:
    pruners = [EvoPrune(16, features="keys"), Random(8)] if features_too else EvoPrune(16)
    with apply(llava, pruners, encoder_mode="cudagraph") as handle:
        wanted = features(llava, pixels(1), handle)
    products = [i for i, (kernel, *_) in enumerate(tapes[0].kernels) if "addmm" in str(kernel)]
    for last in products[4:18]:  # in the first layers, between attention and merge too
        monkeypatch.setattr(Tape, "limit", last)
        with apply(llava, pruners, encoder_mode="cudagraph") as handle:
            with pytest.warns(RuntimeWarning, match=f"LLaVA-1.5 here.*RuntimeError: kernel {last} failed"):
                found = features(llava, pixels(1), handle)
            assert torch.equal(found[0], wanted[0]) and found[1] == wanted[1]
            assert torch.equal(features(llava, pixels(1), handle)[0], wanted[0])


def test_the_plain_path_has_a_graph_of_its_own(llava: Any, tapes: Any) -> None:
    with apply(llava, EvoPrune(16), encoder_mode="cudagraph") as handle:
        fast = features(llava, pixels(1), handle)[0]
        with kernels.reference_path():
            plain = features(llava, pixels(1), handle)[0]
    assert len(tapes) == 2
    torch.testing.assert_close(plain, fast, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen2", "qwen2.5", "qwen3"])
def test_a_tower_that_waits_for_the_host_runs_eagerly_after_one_warning(tapes: Any, name: str) -> None:
    case = CASE[name]
    with model_of(case) as model:
        x = case.inputs([("a ", case.pictures[0], " b")])
        with apply(model, EvoPrune(case.keep, schedule="mean")) as handle:
            wanted = model(**x).logits, facts(handle)
        with apply(model, EvoPrune(case.keep, schedule="mean"), encoder_mode="cudagraph") as handle:
            with pytest.warns(RuntimeWarning, match=f"{case.family} here, which runs eagerly from now on: ") as told:
                first = model(**x).logits
            assert len(told) == 1 and handle.stats.encoder_mode == "eager" and facts(handle) == wanted[1]
            assert torch.equal(first, wanted[0]) and torch.equal(model(**x).logits, wanted[0]) and len(tapes) == 1


def test_a_users_mistake_is_told_as_without_graphs_and_ends_nothing(llava: Any, tapes: Any) -> None:
    with apply(llava, EvoPrune(16), encoder_mode="cudagraph") as handle:
        with pytest.raises(ValueError, match=r"144 patch tokens reach a layer.*planned for 64"):
            llava.model.vision_tower(torch.rand(1, 3, 48, 48), interpolate_pos_encoding=True)
        features(llava, pixels(1), handle)
        assert handle.stats.encoder_mode == "cudagraph"


def test_the_tower_is_as_it_was_after_remove(llava: Any, tapes: Any) -> None:
    before = llava.model.vision_tower(pixels(1)).last_hidden_state
    handle = apply(llava, EvoPrune(16), encoder_mode="cudagraph")
    kept = llava.model.vision_tower.forward  # somebody's own reference
    features(llava, pixels(1), handle)
    handle.remove()
    assert "forward" not in llava.model.vision_tower.__dict__
    assert torch.equal(llava.model.vision_tower(pixels(1)).last_hidden_state, before)
    assert torch.equal(kept(pixels(1)).last_hidden_state, before) and tapes[0].replays == 1


def test_a_tower_that_is_not_on_one_cuda_device_is_refused(llava: Any) -> None:
    with pytest.raises(
        ValueError, match=r"on one CUDA device, but it is on cpu: move it there first, or use .*compile"
    ):
        apply(llava, EvoPrune(16), encoder_mode="cudagraph")
    with pytest.raises(ValueError, match="unknown encoder_mode 'cuda-graph': did you mean 'cudagraph'"):
        apply(llava, EvoPrune(16), encoder_mode="cuda-graph")


def test_trees() -> None:
    one, other = torch.zeros(2), torch.ones(3)
    output = BaseModelOutput(last_hidden_state=one, hidden_states=(other, None, one))
    copied = mapped({"a": output, "b": [1, "x", None]}, torch.clone)
    assert type(copied["a"]) is BaseModelOutput and copied["b"] == [1, "x", None]
    assert copied["a"].last_hidden_state is copied["a"].hidden_states[2] is not one
    assert copied["a"].hidden_states[1] is None and len(tensors(copied)) == 2
    assert outline(((one,), {"flag": True})) == outline(((one + 1,), {"flag": True}))
    for unlike in (((one.double(),), {"flag": True}), ((other,), {"flag": True}), ((one,), {"flag": 1}), ((one,), {})):
        assert outline(unlike) != outline(((one,), {"flag": True}))
    with pytest.raises(TypeError, match="a Tape may hide tensors"):
        mapped([Tape()], torch.clone)


def test_notes_are_packed_into_one_tensor_a_dtype() -> None:
    found = [torch.arange(4).view(2, 2), torch.rand(3), torch.tensor([[True]]), torch.arange(5)]
    flat = recording._packed(found)
    assert [one.dtype for one in flat] == [torch.int64, torch.float32, torch.bool]
    assert all(torch.equal(a, b) for a, b in zip(recording._unpacked(flat, found), found, strict=True))
    assert recording._packed([]) == recording._unpacked([], []) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    model = builders.model().to("cuda", dtype)
    values = [pixels(seed, images).to("cuda", dtype) for seed, images in ((1, 2), (2, 2), (3, 1), (4, 2))]
    with apply(model, EvoPrune(16)) as handle:
        wanted = [features(model, one, handle) for one in values]
    with apply(model, EvoPrune(16), encoder_mode="cudagraph") as handle:
        found = [features(model, one, handle) for one in values]
        assert handle.stats.encoder_mode == "cudagraph"
    for (one, told), (other, expected) in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=1e-2)
        assert dtype != torch.float32 or told == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tower_that_waits_for_the_gpu_leaves_it_usable() -> None:
    case = CASE["qwen2"]
    model = case.model().to("cuda")
    x = {name: value.to("cuda") for name, value in case.inputs([("a ", case.pictures[0], " b")]).items()}
    with apply(model, EvoPrune(case.keep), encoder_mode="cudagraph") as handle:
        with pytest.warns(RuntimeWarning, match="Qwen2-VL here, which runs eagerly"):
            model.generate(**x, max_new_tokens=2, do_sample=True)  # random numbers are drawn after the refusal
        assert handle.stats.encoder_mode == "eager" and torch.cuda.get_sync_debug_mode() == 0
