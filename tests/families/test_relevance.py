"""Relevance to the question on every family: CDPruner by the language model's embeddings of the prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evoprune import CDPruner, apply
from tests import builders
from tests import text_towers as tiny
from tests.families.case import Case, Row
from tests.families.table import CASES, mixed, model_of, visuals

EVERY = pytest.mark.parametrize("case", CASES, ids=str)
PRUNER = CDPruner(0.25, text_tower="embeddings")


def kept(handle: Any) -> list[list[int]]:
    return [one.tolist() for one in handle.stats.positions]


@EVERY
@torch.no_grad()
def test_chunks_and_beams_keep_the_same_tokens(case: Case) -> None:
    """Tiles of one picture share the spread of relevance, also where each goes through the encoder by itself."""
    x = case.inputs(mixed(case))
    with model_of(case) as model:
        with apply(model, PRUNER, **case.options) as handle:
            model(**x)
            whole = kept(handle)
            model.generate(**x, max_new_tokens=2, num_beams=2, do_sample=False)
            beams = kept(handle)
        assert len(beams) in (len(whole), 2 * len(whole))
        assert sorted(beams) == sorted(whole * (len(beams) // len(whole)))
        with apply(model, PRUNER, encoder_batch=1, **case.options) as handle:
            model(**x)
            assert kept(handle) == whole
            model.generate(**x, max_new_tokens=2, num_beams=2, do_sample=False)
            assert kept(handle) == beams


@EVERY
@torch.no_grad()
def test_the_question_decides(case: Case) -> None:
    picture = case.pictures[0]
    rows: list[Row] = [("what colour ? ", picture, " z z z z"), ("B 7 ", picture, " it moves up . . . or down ?")]
    with model_of(case) as model, apply(model, PRUNER, **case.options) as handle:
        model(**case.inputs(rows))
        both = kept(handle)
        assert both[: len(both) // 2] != both[len(both) // 2 :]
        model(**case.inputs(rows[::-1]))
        assert kept(handle) == both[len(both) // 2 :] + both[: len(both) // 2]


@EVERY
@torch.no_grad()
def test_rows_of_one_picture_are_shown_together(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the method sees tells for each tile or frame which picture it is of."""
    views: list[Any] = []
    select = CDPruner.select

    def spied(self: CDPruner, view: Any, keep: int) -> Tensor:
        views.append(view)
        return select(self, view, keep)

    monkeypatch.setattr(CDPruner, "select", spied)
    rows = mixed(case)
    with model_of(case) as model, apply(model, PRUNER, encoder_batch=2, **case.options) as handle:
        model(**case.inputs(rows))
        assert sum(len(view.features) for view in views) == len(kept(handle))
    for view in views:
        assert view.relevance.shape == view.features.shape[:2] and view.relevance.dtype == torch.float32
        assert view.owners.shape == view.features.shape[:1]
        assert float(view.relevance.abs().max()) <= 1.0 + 1e-5
    owners = [len(view.owners.unique()) for view in views]
    parts = len([one for row in rows for one in row if not isinstance(one, str)])
    assert sum(owners) >= parts == len(visuals(rows))
    if case.family == "LLaVA-NeXT":  # some pictures have several tiles
        assert sum(owners) == parts < len(kept(handle))


@EVERY
@torch.no_grad()
def test_a_text_tower_serves_families_that_project_patches(case: Case) -> None:
    rows = mixed(case)
    x = case.inputs(rows)
    with model_of(case) as model:
        vision = model.config.vision_config
        width = int(getattr(vision, "embed_dim", None) or vision.hidden_size)
        tower = tiny.siglip(width) if "siglip" in vision.model_type else tiny.clip(width)
        pruner, words = CDPruner(0.25, text_tower=tower), builders.processor()  # one alphabet in all families
        if case.family not in ("LLaVA-1.5", "LLaVA-NeXT", "LLaVA-NeXT-Video", "LLaVA-OneVision"):
            with pytest.raises(ValueError, match=f"the projector of {case.family} does not take the patch states of"):
                apply(model, pruner, words, **case.options)
            return
        with apply(model, pruner, words, **case.options) as handle:
            model(**x)
            whole = kept(handle)
            alone = []
            for row in rows:
                model(**case.inputs([row]))
                alone += kept(handle) if any(not isinstance(part, str) for part in row) else []
            assert sorted(alone) == sorted(whole)
        with apply(model, pruner, builders.processor(), encoder_batch=1, **case.options) as handle:
            model(**x)
            assert kept(handle) == whole
