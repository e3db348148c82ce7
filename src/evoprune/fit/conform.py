"""The fit on recorded inputs of the official code: one decision, and a whole search on a small stored model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..recipes import Identity
from .decide import decide, spared
from .replay import Replay
from .run import runs, scheme
from .search import TOLERANCE, Budget, Found, bisect


def sums_of(attention: Tensor, values: Mapping[str, Any]) -> tuple[Tensor, Tensor, int]:
    """Return (1, n) sums over the text, (1, n) means over the visual tokens, and the text tokens behind them.

    Of attention (1, H, S, S) over [system | visual | text], the largest of the heads.
    """
    level = attention.amax(1)
    start = int(values["sys_length"])
    end = start + int(values["visual_tokens"])
    seen = level[:, :, start:end]
    return seen[:, end:].sum(1), seen[:, start:end].mean(1), level.shape[1] - end


def one_decision(inputs: Mapping[str, Tensor], cross: Tensor, within: Tensor, alpha: float) -> dict[str, Tensor]:
    """Return the keys of a ``decide_*`` case."""
    totals = float(inputs["weightsum_cross"]), float(inputs["weightsum_self"])
    found = {"cross_now": cross[0], "self_now": within[0]}
    for name, sums, total in (("del_cross", cross[0], totals[0]), ("del_self", within[0], totals[1])):
        order = torch.sort(sums, stable=True).indices
        found[name] = order[: int(spared(sums, total, alpha).sum())]
    return found | {"deleted": decide(cross[0], within[0], totals, alpha).nonzero()[:, 0]}


def whole_fit(inputs: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the keys of a ``fit_*`` case: references, a few tolerances by themselves, the search and what it prints.

    Which tolerances were tried by themselves is no input of the recorded cases. `alphas`, among the inputs or the
    hyper-parameters, may say so; without it they are those of the recorded cases, and only the search is by the inputs.
    """
    model = _language_model(inputs, values)
    start, tokens = int(values["sys_length"]), int(values["visual_tokens"])
    embeddings = [inputs[name] for name in sorted((n for n in inputs if n.startswith("embeds")), key=_number)]
    replay = Replay(model.layers)  # type: ignore[arg-type]
    with replay.installed():
        samples = []
        for one in embeddings:
            visual = torch.zeros(one.shape[1], dtype=torch.bool)
            visual[start : start + tokens] = True
            samples.append(replay.record(visual, lambda one=one: model(inputs_embeds=one, use_cache=False)))  # type: ignore[misc]
        identity = Identity("llama", int(values["hidden"]), int(values["intermediate"]), int(values["layers"]))
        sizes = np.full(len(samples), tokens)
        budget = Budget(sizes, identity.hidden_size, identity.intermediate_size, identity.layers)
        counts, reduce = runs(replay, samples), float(values["reduction_ratio"])
        alphas = _alphas(inputs, values, len(samples))
        tried = [budget.stopped(alpha, counts(alpha), reduce) for alpha in alphas]
        search = bisect(counts, budget, reduce, float(values.get("search_tolerance", TOLERANCE)))
    references = torch.tensor([[layer[0] for layer in sample.totals] for sample in samples], dtype=torch.float64)
    return {
        "ref_cross": references[..., 0],
        "ref_self": references[..., 1],
        "alphas": torch.tensor(alphas, dtype=torch.float64),
        "flops_reached": torch.tensor([one.reached for one in tried]),
        "schemes": _schemes(tried, budget),
        "search_alphas": torch.tensor([one.alpha for one in search], dtype=torch.float64),
        "search_reached": torch.tensor([one.reached for one in search]),
        "search_schemes": _schemes(search, budget),
        "final_scheme": _schemes(search, budget)[-1],
        "origin_flops": torch.tensor(budget.origin, dtype=torch.float64),
    }


def _schemes(found: Sequence[Found], budget: Budget) -> Tensor:
    return torch.from_numpy(np.stack([scheme(one, budget) for one in found]))


def _number(name: str) -> int:
    return int(name.removeprefix("embeds") or 0)


def _alphas(inputs: Mapping[str, Tensor], values: Mapping[str, Any], samples: int) -> list[float]:
    given = inputs.get("alphas", values.get("alphas"))
    if given is not None:
        return [float(one) for one in given]
    return [0.1, 0.2, 0.3] if samples > 2 else [0.2, 0.4]  # those of the recorded cases


def _shared_heads(inputs: Mapping[str, Tensor], values: Mapping[str, Any]) -> int:
    """Return the key heads that the stored weights have."""
    width = int(values["hidden"]) // int(values["heads"])
    keys = next(value for name, value in inputs.items() if name.endswith("self_attn.k_proj.weight"))
    return keys.shape[0] // width


def _language_model(inputs: Mapping[str, Tensor], values: Mapping[str, Any]) -> nn.Module:
    """Return a LLaMA with the stored weights, which have neither embeddings nor a final norm."""
    from transformers import LlamaConfig, LlamaModel

    base = {"rope_theta": float(values["rope_theta"]), "rope_type": "default"}
    config = LlamaConfig(
        vocab_size=8, hidden_size=int(values["hidden"]), intermediate_size=int(values["intermediate"]),
        num_hidden_layers=int(values["layers"]), num_attention_heads=int(values["heads"]),
        num_key_value_heads=_shared_heads(inputs, values), rms_norm_eps=float(values["rms_eps"]),
        rope_parameters=base, pad_token_id=0,
    )  # fmt: skip
    model = LlamaModel._from_config(config, attn_implementation="sdpa")
    weights = {name.removeprefix("w."): value for name, value in inputs.items() if name.startswith("w.")}
    found = model.load_state_dict(weights, strict=False)
    odd = [name for name in found.missing_keys if name.startswith("layers.")] + found.unexpected_keys
    if odd:
        raise ValueError(f"the weights do not fit a LLaMA of these sizes, first {odd[0]}: give all of its layers")
    return model.eval()
