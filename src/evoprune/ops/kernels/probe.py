"""Run every kernel once on a few tokens, so that `status` can tell what works on a device before a model is there."""

from __future__ import annotations

import warnings

import torch

from . import attempt


def probe(device: torch.device) -> None:
    """Compile and run each kernel on `device`, in bfloat16 at the sizes of blocks that many pictures take.

    What fails is remembered as by any other call, and shown by `evoprune.ops.kernels.status`.
    """
    from .density import nearest, norms, weights
    from .merging import merge_rows
    from .order import deal, pick
    from .received import column_means
    from .scores import best_partners

    heads = torch.ones((1, 2, 130, 72), dtype=torch.bfloat16, device=device)
    tokens = torch.ones((1, 130, 128), dtype=torch.bfloat16, device=device)
    index = torch.arange(130, device=device).unsqueeze(0)
    first, second = index[:, 0::2], index[:, 1::2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the state says it
        attempt("received", column_means, heads, heads, 0.1)
        inverse = attempt("density", norms, tokens)
        if inverse is not None:
            near = attempt("density", nearest, tokens, inverse, 5)
            if near is not None:
                attempt("density", weights, near, 1.0)
            barred = torch.zeros_like(second, dtype=torch.bool)
            attempt("scores", best_partners, tokens, inverse, inverse, first, second, barred, "cosine")
        dealt = attempt("order", deal, index.float(), (1, 130), 30, True, device)
        if dealt is not None:
            attempt("order", pick, dealt.first.float(), torch.zeros_like(dealt.first), dealt, 20)
        attempt("merging", merge_rows, tokens, torch.ones_like(index).float(), first, second, second, False)
