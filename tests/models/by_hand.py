"""A language model run by hand in float64, layer by layer and a row at a time, with caches of its own."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, MistralConfig

from evoprune import apply
from evoprune.pruners import Pruner
from tests import builders
from tests.test_dart import literal as least_duplicated
from tests.test_dart import strongest

TEXTS = ["USER: <image> what is this ? ASSISTANT:", "a <image> b <image> what", "no picture at all ?", "<image>x"]
SEEDS = [1, 2, 3, 4]
LAYERS = 4
FULL = builders.SIDE**2


def model(attention: str = "sdpa", layers: int = LAYERS, seed: int = 0, **text: Any) -> Any:
    """Return the tiny LLaVA of `builders` with more layers in its language model."""
    built = builders.model(seed, attention)
    config = copy.deepcopy(built.config)
    config.text_config.num_hidden_layers = layers
    for name, value in text.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(seed)
    deeper = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in deeper.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
    deeper.load_state_dict(built.state_dict(), strict=False)
    deeper.generation_config = built.generation_config
    return deeper.eval()


def sliding(window: int, attention: str = "sdpa") -> Any:
    """Return a tiny LLaVA around a Mistral, whose layers see `window` tokens back."""
    config = builders.config()
    config.text_config = MistralConfig(
        vocab_size=config.text_config.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=window, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    built = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
    built.generation_config.eos_token_id, built.generation_config.pad_token_id = None, 0
    return built.eval()


def inputs(texts: list[str] = TEXTS, seeds: list[int] = SEEDS, side: str = "left") -> dict[str, Tensor]:
    processor = builders.processor()
    processor.tokenizer.padding_side = side
    pictures = [builders.picture(seed) for seed in seeds] or None
    return dict(processor(images=pictures, text=texts, return_tensors="pt", padding=True))


class ByHand:
    """One sequence through the language model: explicit attention, and the selection from its whole matrix."""

    def __init__(self, model: Any, pruner: Any):
        self.model, self.pruner = model, pruner
        self.language = model.model.language_model
        self.config = self.language.config
        self.keys: list[Any] = [None] * len(self.language.layers)  # (Hk, n, D) of each layer
        self.values: list[Any] = [None] * len(self.language.layers)
        self.places: list[list[int]] = [[] for _ in self.language.layers]
        self.length = 0

    def turn(self, embeds: Tensor, blocks: list[tuple[int, int]]) -> Tensor:
        """Return logits (S, V) of one call, NaN at tokens that were dropped; `blocks` are (start, tokens)."""
        columns, hidden, stays = list(range(len(embeds))), embeds.double(), list(range(len(embeds)))
        for number, layer in enumerate(self.language.layers):
            if number == self.pruner.layer:
                columns, hidden = stays, hidden[stays]
            normed = _norm(hidden, layer.input_layernorm)
            out, attention, keys = self._attend(number, layer.self_attn, normed, columns)
            hidden = hidden + out
            inner, mlp = _norm(hidden, layer.post_attention_layernorm), layer.mlp
            gate = inner @ mlp.gate_proj.weight.double().T
            up = inner @ mlp.up_proj.weight.double().T
            hidden = hidden + (gate / (1 + torch.exp(-gate)) * up) @ mlp.down_proj.weight.double().T
            if number == self.pruner.layer - 1:
                stays = self._stays(attention, _norm(hidden, self.language.norm), keys, blocks)
        self.length += len(embeds)
        logits = torch.full((len(embeds), self.model.lm_head.weight.shape[0]), math.nan, dtype=torch.float64)
        logits[columns] = _norm(hidden, self.language.norm) @ self.model.lm_head.weight.double().T
        return logits

    def _attend(self, number: int, attn: Any, hidden: Tensor, columns: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        heads, shared = self.config.num_attention_heads, self.config.num_key_value_heads
        places, window = (
            [self.length + column for column in columns],
            getattr(self.config, "sliding_window", None) or 10**9,
        )
        split = [
            (hidden @ one.weight.double().T).view(len(columns), count, -1).transpose(0, 1)
            for one, count in ((attn.q_proj, heads), (attn.k_proj, shared), (attn.v_proj, shared))
        ]
        query, key, value = _rotated(split[0], places), _rotated(split[1], places), split[2]
        if self.keys[number] is None:
            self.keys[number], self.values[number] = key, value
        else:
            self.keys[number] = torch.cat((self.keys[number], key), 1)
            self.values[number] = torch.cat((self.values[number], value), 1)
        self.places[number] = self.places[number] + places
        rows = []
        for head in range(heads):
            of = head // (heads // shared)
            logits = query[head] @ self.keys[number][of].T / math.sqrt(query.shape[2])
            unseen = torch.tensor([[k > q or q - k >= window for k in self.places[number]] for q in places])
            rows.append(logits.masked_fill(unseen, -math.inf).softmax(-1))
        mixed = [row @ self.values[number][head // (heads // shared)] for head, row in enumerate(rows)]
        out = torch.cat(mixed, dim=1) @ attn.o_proj.weight.double().T
        every = torch.cat([key[head // (heads // shared)] for head in range(heads)], dim=1)
        return out, torch.stack(rows)[:, :, -len(columns) :], every

    def _stays(self, attention: Tensor, normed: Tensor, keys: Tensor, blocks: list[tuple[int, int]]) -> list[int]:
        """Return the columns that enter layer K."""
        length = len(normed)
        visual = {c for start, tokens in blocks for c in range(start, start + tokens)}
        kept = set(range(length)) - visual
        for start, tokens in blocks:
            keep, block = self.pruner.tokens_after(tokens), range(start, start + tokens)
            if keep == tokens:
                kept |= set(block)
            elif self.pruner.name == "fastv":
                score = [sum(float(head[-1, c]) for head in attention) / len(attention) for c in block]
                ranked = sorted(range(tokens), key=lambda v: (-score[v], v))
                last, next_one = score[ranked[keep - 1]], score[ranked[keep]]
                assert last - next_one > 1e-7 or last == 0.0, "a tie: choose another seed"  # 0: out of a window
                kept |= {start + v for v in ranked[:keep]}
            else:
                behind = [c for c in range(start + tokens, length) if c not in visual]
                parts = (normed[list(block)], keys[list(block)], normed[behind], keys[behind])
                pruner = self.pruner
                # Ties among the norms of what is no pivot do not matter.
                chosen, _ = least_duplicated(
                    *(part.tolist() for part in parts), keep, pruner.image_pivots, pruner.text_pivots
                )
                assert strongest(parts[1].tolist(), 1)[0][0] in chosen
                kept |= {start + v for v in chosen}
        return sorted(kept)


def _norm(hidden: Tensor, norm: Any) -> Tensor:
    scale = (hidden.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    return hidden * scale * norm.weight.double()


def _rotated(x: Tensor, places: list[int], theta: float = 10000.0) -> Tensor:
    half = x.shape[2] // 2
    angle = torch.tensor([[p / theta ** (i / half) for i in range(half)] for p in places], dtype=torch.float64)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), -1)


def sequences(model: Any, x: dict[str, Tensor], features: Any) -> list[tuple[Tensor, list[tuple[int, int]]]]:
    """Return the embeddings of each row without padding, and where its pictures' tokens stand."""
    table, found, picture = model.get_input_embeddings().weight, [], 0
    for ids, mask in zip(x["input_ids"], x["attention_mask"], strict=True):
        parts, blocks, length, real = [], [], 0, ids[mask.bool()].tolist()
        while real:
            if real[0] == builders.IMAGE_TOKEN:
                assert real[:FULL] == [builders.IMAGE_TOKEN] * FULL
                blocks.append((length, len(features[picture])))
                parts.append(features[picture])
                picture, real = picture + 1, real[FULL:]
            else:
                parts.append(table[real[0]][None])
                real = real[1:]
            length += len(parts[-1])
        found.append((torch.cat(parts), blocks))
    assert picture == len(features)
    return found


def projected(model: Any, x: dict[str, Tensor], earlier: Pruner | None = None) -> Any:
    """Return the projector's output for each picture, of the unpruned model or behind an earlier stage."""
    if "pixel_values" not in x:
        return []
    if earlier is None:
        hidden = model.model.vision_tower(x["pixel_values"], output_hidden_states=True).hidden_states[-2]
        return model.model.multi_modal_projector(hidden[:, 1:])
    with apply(model, earlier):
        return list(model.model.get_image_features(x["pixel_values"]).pooler_output)


def agrees(found: Tensor, wanted: Tensor) -> None:
    """Compare logits (S, V) where they are of text, which is where none was dropped in vain."""
    there = ~wanted[:, 0].isnan()
    assert bool(there.any())
    torch.testing.assert_close(found.double()[there], wanted[there], rtol=2e-4, atol=2e-4)


def greedy(language: Any, pruner: Any, embeds: Tensor, blocks: Any, new: int) -> tuple[list[int], float]:
    """Return the answer by hand, and the smallest gap between its tokens and the second best."""
    hand, answer, gap = ByHand(language, pruner), [], math.inf
    logits = hand.turn(embeds, blocks)[-1]
    for _ in range(new):
        best = logits.topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        answer.append(int(best.indices[0]))
        logits = hand.turn(language.get_input_embeddings().weight[answer[-1:]], [])[-1]
    return answer, gap


def lengths(cache: Any) -> list[int]:
    return [layer.keys.shape[2] for layer in cache.layers]
