"""FitPrune's formulas in float64, by loops, on a tiny LLaMA whose weights are read and whose code is not run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests import builders

# (layer, cross of each visual token left, within of each) -> which of them go
Chooser = Callable[[int, list[float], list[float]], set[int]]


def deep(layers: int = 4, seed: int = 0, attention: str = "sdpa") -> Any:
    """Return the tiny LLaVA with a deeper language model."""
    config = builders.config()
    config.text_config.num_hidden_layers = layers
    torch.manual_seed(seed)
    model = type(builders.model())._from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.15 if "position" not in name else 0.1)
    return model.eval()


def embeddings(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return what enters the language model, float64 (1, S, C)."""
    seen: list[Tensor] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    return seen[0].double()


def probabilities(layer: Any, hidden: Tensor, positions: list[int]) -> tuple[Tensor, Tensor]:
    """Return causal softmax attention (H, S, S) and its output (S, C), of normalised states (S, C)."""
    attention = layer.self_attn
    size, config = attention.head_dim, attention.config
    turns = [[p * config.rope_parameters["rope_theta"] ** (-2 * i / size) for i in range(size // 2)] for p in positions]
    angles = torch.tensor([row + row for row in turns], dtype=torch.float64)

    def heads(projection: Any, turn: bool) -> Tensor:
        made = (hidden @ projection.weight.double().T).view(len(hidden), -1, size).transpose(0, 1)
        half = torch.cat((-made[..., size // 2 :], made[..., : size // 2]), dim=-1)
        return made * angles.cos() + half * angles.sin() if turn else made

    query, key = heads(attention.q_proj, True), heads(attention.k_proj, True)
    value, share = heads(attention.v_proj, False), config.num_attention_heads // config.num_key_value_heads
    maps, outputs = [], []
    for h in range(len(query)):
        logits = query[h] @ key[h // share].T / math.sqrt(size)
        later = torch.ones_like(logits, dtype=torch.bool).triu(1)
        maps.append(logits.masked_fill(later, -math.inf).softmax(-1))
        outputs.append(maps[-1] @ value[h // share])
    return torch.stack(maps), torch.cat(outputs, dim=-1) @ attention.o_proj.weight.double().T


def norm(module: Any, hidden: Tensor) -> Tensor:
    return hidden * (hidden.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).rsqrt() * module.weight.double()


def sums(level: Tensor, visual: list[int], text: list[int]) -> tuple[list[float], list[float]]:
    """Return cross, the mean over the text behind the first visual token, and within, the mean over visual queries."""
    behind = [t for t in text if t > visual[0]]
    cross = [sum(float(level[t, v]) for t in behind) / len(behind) for v in visual]
    within = [sum(float(level[u, v]) for u in visual) / len(visual) for v in visual]
    return cross, within


@torch.no_grad()
def run(model: Any, hidden: Tensor, visual: list[int], choose: Chooser) -> tuple[Tensor, list[int], list[Any]]:
    """Run a LLaVA's language model layer by layer.

    Returns
    -------
    tuple
        Logits of the columns that are left, these columns, and for each layer (cross, within, visual tokens left).
    """
    states, columns, found = hidden[0], list(range(hidden.shape[1])), []
    for number, layer in enumerate(model.model.language_model.layers):
        maps, output = probabilities(layer, norm(layer.input_layernorm, states), columns)
        states = states + output
        here = [i for i, column in enumerate(columns) if column in set(visual)]
        cross, within = sums(maps.amax(0), here, [i for i in range(len(columns)) if i not in set(here)])
        gone = {here[i] for i in choose(number, cross, within)}
        stay = [i for i in range(len(columns)) if i not in gone]
        states, columns = states[stay], [columns[i] for i in stay]
        found.append((cross, within, len(here) - len(gone)))
        middle, mlp = norm(layer.post_attention_layernorm, states), layer.mlp
        gate, up = middle @ mlp.gate_proj.weight.double().T, middle @ mlp.up_proj.weight.double().T
        states = states + (gate * gate.sigmoid() * up) @ mlp.down_proj.weight.double().T
    final = norm(model.model.language_model.norm, states)
    return final @ model.lm_head.weight.double().T, columns, found


def spared(values: list[float], total: float, alpha: float) -> set[int]:
    """Return the longest prefix of the ascending values that leaves ``total (1 - alpha)``, never all of them."""
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    for count in range(len(values) - 1, 0, -1):
        if sum(values[i] for i in order[count:]) >= total * (1 - alpha):
            return set(order[:count])
    return set()
