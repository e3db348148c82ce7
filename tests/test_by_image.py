"""What the batched selections choose, against the same written straight down for one image."""

from __future__ import annotations

import pytest
import torch

from evoprune.pruners import METHODS, InputPruner
from tests.selections import CASES, Shown, agreement, cases, library

SELECTING = [name for name, method in METHODS.items() if not issubclass(method, InputPruner)]


@pytest.mark.parametrize("name", SELECTING)
@pytest.mark.parametrize(("images", "side", "width", "keep"), [(3, 8, 16, 16), (2, 7, 40, 9), (1, 12, 64, 36)])
def test_same_choice_as_by_image(name, images, side, width, keep):
    torch.manual_seed(11 + side)
    shown = Shown.draw(images, side, width)
    pruner, case = cases()[name]
    ours, plain = library(pruner, shown, keep), case.plain(shown, keep)
    assert ours.shape == plain.shape
    assert agreement(ours, plain) == 1.0


def test_every_method_that_selects_has_a_case():
    assert set(CASES) == set(SELECTING)


def test_agreement_tells_what_differs():
    ours = torch.tensor([[0, 2, 5, 7]])
    assert agreement(ours, torch.tensor([[7, 5, 1, 0]])) == 0.75
    pairs = torch.tensor([[[0, 2], [1, 3]]])
    assert agreement(pairs, torch.tensor([[[0, 2], [3, 1]]])) == 0.0
    tokens = torch.randn(1, 4, 3)
    assert agreement(tokens, tokens + torch.tensor([[[1.0], [0.0], [0.0], [1e-7]]])) == 0.75
