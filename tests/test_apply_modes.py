"""The pruned tower as one compiled graph: the same merges and nearly the same numbers, and all of it undone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from evoprune.apply import apply
from evoprune.commands.errors import UserError
from evoprune.commands.settings import apply_options
from evoprune.models import graphs
from evoprune.pruners import EvoPrune
from tests import builders
from tests.families.case import Video
from tests.families.table import CASES, model_of

TEXTS = ["USER: <image> what is this ? ASSISTANT:", "a <image> b <image> what"]
CASE = {case.name: case for case in CASES}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def _as_a_user_generates() -> Iterator[None]:
    torch.compiler.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.fixture
def traced(monkeypatch: Any) -> None:
    """One graph as for inductor, but run by torch's own kernels: no compiler has to start."""
    monkeypatch.setattr(graphs, "BACKEND", "aot_eager")


def test_a_model_that_has_never_run(traced: None) -> None:
    model, x = builders.model(layers=3), builders.inputs(TEXTS, [1, 2, 3])
    with apply(model, EvoPrune(32), encoder_mode="compile") as handle:
        found = model(**x).logits
        assert handle.stats.encoder_mode == "compile"
    with apply(model, EvoPrune(32)):
        torch.testing.assert_close(found, model(**x).logits, **CLOSE)


def facts(handle: Any) -> tuple[Any, ...]:
    stats = handle.stats
    rows = [[row.tolist() for row in value] for value in (stats.sources, stats.positions)]
    return stats.tokens, stats.visual_tokens, stats.flops, rows


def test_compiled_by_inductor() -> None:
    model = builders.model(layers=3)
    tower = model.model.vision_tower
    pruner = EvoPrune(32)  # one merge, in the second of two layers that are read
    x = builders.inputs(TEXTS, [1, 2, 3])
    other = {**x, "pixel_values": builders.inputs(TEXTS, [4, 5, 6])["pixel_values"]}
    before = model(**x).logits
    with apply(model, pruner) as handle:
        wanted = [(model(**one).logits, facts(handle)) for one in (x, other)]
        answer = model.generate(**x, max_new_tokens=4, do_sample=False)
    with apply(model, pruner, encoder_mode="compile") as handle:
        for one, (logits, told) in zip((x, other), wanted, strict=True):
            torch.testing.assert_close(model(**one).logits, logits, **CLOSE)
            assert facts(handle) == told and handle.stats.encoder_mode == "compile"
        assert torch.equal(model.generate(**x, max_new_tokens=4, do_sample=False), answer)
        with torch.enable_grad():
            assert model(**x).logits.requires_grad and handle.stats.encoder_mode == "eager"
    assert "forward" not in tower.__dict__
    assert torch.equal(model(**x).logits, before)


@pytest.mark.usefixtures("traced")
def test_frames_in_chunks() -> None:
    case = CASE["llava_onevision"]
    pruner = EvoPrune(25, schedule="last:1")
    with model_of(case) as model:
        x = case.inputs([("a ", Video(4, 40, 44, 2), " what ?")])
        with apply(model, pruner, encoder_batch=2) as handle:
            wanted = model(**x).logits, facts(handle)
        with apply(model, pruner, encoder_batch=2, encoder_mode="compile") as handle:
            torch.testing.assert_close(model(**x).logits, wanted[0], **CLOSE)
            assert facts(handle) == wanted[1] and handle.stats.encoder_mode == "compile"


@pytest.mark.usefixtures("traced")
def test_units() -> None:
    case = CASE["internvl"]
    with model_of(case) as model:
        x = case.inputs([("a ", case.pictures[0], " b")])
        with apply(model, EvoPrune(8, schedule="last:1")) as handle:
            wanted = model(**x).logits, facts(handle)
        with apply(model, EvoPrune(8, schedule="last:1"), encoder_mode="compile") as handle:
            torch.testing.assert_close(model(**x).logits, wanted[0], **CLOSE)
            assert facts(handle) == wanted[1] and handle.stats.encoder_mode == "compile"


def test_a_compiler_that_fails_is_told_once_and_changes_no_answer(llava: Any, monkeypatch: Any) -> None:
    def missing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", lambda function, **how: missing)
    x = builders.inputs(TEXTS, [1, 2, 3])
    with apply(llava, EvoPrune(16)) as handle:
        wanted = llava(**x).logits, facts(handle)
    with apply(llava, EvoPrune(16), encoder_mode="compile") as handle:
        with pytest.warns(RuntimeWarning) as told:
            logits = llava(**x).logits
        assert torch.equal(logits, wanted[0]) and torch.equal(llava(**x).logits, wanted[0])
        assert facts(handle) == wanted[1] and handle.stats.encoder_mode == "eager"
    (warning,) = told
    assert str(warning.message) == (
        "encoder_mode='compile' does not work with the tower of LLaVA-1.5 here, which runs eagerly from now on: "
        "RuntimeError: no compiler found"
    )


@pytest.mark.usefixtures("traced")
def test_a_tower_that_reads_sizes_on_the_host_runs_eagerly_after_one_warning() -> None:
    case = CASE["qwen3"]
    with model_of(case) as model:
        x = case.inputs([("a ", case.pictures[0], " b")])
        with apply(model, EvoPrune(case.keep, schedule="mean")) as handle:
            wanted = model(**x).logits, facts(handle)
        with apply(model, EvoPrune(case.keep, schedule="mean"), encoder_mode="compile") as handle:
            with pytest.warns(RuntimeWarning, match="'compile' does not work with the tower of Qwen3-VL"):
                assert torch.equal(model(**x).logits, wanted[0]) and facts(handle) == wanted[1]
            assert torch.equal(model(**x).logits, wanted[0])


def test_on_the_command_line() -> None:
    assert apply_options(encoder_mode="compile") == {"encoder_mode": "compile"} and apply_options() == {}
    with pytest.raises(UserError, match="unknown --encoder-mode 'compiled': did you mean 'compile'"):
        apply_options(encoder_mode="compiled")


def test_cuda_graphs_on_the_command_line_need_a_gpu(tmp_path: Any) -> None:
    from typer.testing import CliRunner

    from evoprune.cli import app

    path = tmp_path / "one.png"
    builders.picture().save(path)
    asked = ["ask", "tiny", "--image", str(path), "--prompt", "What ?", "--keep", "0.25", "--device", "cpu"]
    result = CliRunner().invoke(app, [*asked, "--encoder-mode", "cudagraph"])
    assert result.exit_code == 2
    assert "needs a CUDA device, but the model is to run on cpu: give --device cuda, or --encoder-mode" in result.output
