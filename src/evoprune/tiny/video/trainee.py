"""The video model in training: its losses and the heads that only training needs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from ..batches import IGNORED
from ..scenes import COLOUR_NAMES
from . import build
from .batches import VideoBatch, WatchedBatch
from .clips import MOST_MOVERS

DENSE = {"digit": 10, "colour": len(COLOUR_NAMES) + 1, "place": 3}
SEEN = {"way": 3, "rank": MOST_MOVERS, "side": 2, "place": 4}
READ = build.NEW_BLOCKS + 1  # decoder layers after which a visual token is to know where its digit goes


LOOK = READ + 1  # the decoder layer that is to find the digit that a question is about


def _place_loss(out: Tensor, target: Tensor) -> Tensor:
    known = ~target.isnan()
    gap = torch.where(known, out - target.nan_to_num(), 0.0)
    total = functional.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="sum", beta=0.05)
    return 4 * total / known.sum().clamp(min=1)


class VideoTrainee(nn.Module):
    """The model together with its auxiliary heads."""

    def __init__(self, network: Any, words: Any) -> None:
        super().__init__()
        self.network = network
        self.digit_words = [words.encode(f" {digit}", add_special_tokens=False)[0] for digit in range(10)]
        self.colour_words = [words.encode(f" {name}", add_special_tokens=False)[0] for name in COLOUR_NAMES]
        self.norm = nn.LayerNorm(build.WIDTH)
        self.dense = nn.Linear(build.WIDTH, sum(DENSE.values()))
        self.seen_norm = nn.LayerNorm(build.WIDTH)
        self.seen = nn.Linear(build.WIDTH, sum(SEEN.values()))

    def forward(self, batch: VideoBatch | WatchedBatch, joint: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """Losses by name, and the logits (n, vocabulary) at the n labelled positions; None where nothing is asked."""
        if isinstance(batch, WatchedBatch):
            return self._seen_losses(self._watch(batch.embeds).flatten(0, 1), batch.seen), None
        feature = self._features(batch)
        traced = batch.traced
        losses = self._dense_losses(feature[traced], {k: v[traced] for k, v in batch.dense.items()})
        if not joint:
            return losses, None
        projected = self.network.model.multi_modal_projector(feature)
        losses["words"] = self._words_loss(projected, batch.dense)
        logits, hidden, here = self._answer(projected, batch)
        losses |= self._seen_losses(hidden[READ][here], batch.seen)
        losses["look"] = self._look_loss(hidden[LOOK], here, batch)
        losses["answer"] = functional.cross_entropy(logits, batch.labels[batch.labels != IGNORED])
        return losses, logits

    def _watch(self, embeds: Tensor) -> Tensor:
        """Hidden states of visual tokens (B, T, 96) after the first `READ` decoder layers, without any text."""
        decoder = self.network.model.language_model
        positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
        turned = decoder.rotary_emb(embeds, positions)
        earlier = torch.ones(embeds.shape[1], embeds.shape[1], dtype=torch.bool, device=embeds.device).tril()
        for layer in decoder.layers[:READ]:
            embeds = layer(
                embeds, attention_mask=earlier[None, None], position_ids=positions, position_embeddings=turned
            )
        return embeds

    @torch.no_grad()
    def read(self, pixels: Tensor) -> Tensor:
        """Embeddings (B, F x 25 + 1, 96) of clips (B, F, 3, 80, 80) as the language model reads them."""
        inner = self.network.model
        feature = inner.vision_tower.encoder(inputs_embeds=inner.vision_tower.embeddings(pixels.flatten(0, 1)))
        pooled = inner.apply_pooling(inner.multi_modal_projector(feature.last_hidden_state))
        pooled = pooled.unflatten(0, pixels.shape[:2]).flatten(1, 2)
        return torch.cat((pooled, inner.image_newline.expand(len(pooled), 1, -1)), 1)

    def _features(self, batch: VideoBatch) -> Tensor:
        """Tower features (N, 100, 96); a gradient flows through the traced frames alone."""
        tower = self.network.model.vision_tower

        def read(pixels: Tensor) -> Tensor:
            return tower.encoder(inputs_embeds=tower.embeddings(pixels)).last_hidden_state

        if batch.traced.all():
            return read(batch.pixels)
        with torch.no_grad():
            rest = read(batch.pixels[~batch.traced])
        out = torch.empty(len(batch.pixels), *rest.shape[1:], dtype=rest.dtype, device=rest.device)
        out[~batch.traced] = rest
        return out.index_put((batch.traced.nonzero()[:, 0],), read(batch.pixels[batch.traced]))

    def _dense_losses(self, feature: Tensor, dense: dict[str, Tensor]) -> dict[str, Tensor]:
        out = self.dense(self.norm(feature))
        parts = dict(zip(DENSE, out.split(tuple(DENSE.values()), dim=-1), strict=True))
        weight = torch.ones(DENSE["colour"], device=out.device)
        weight[-1] = 0.3  # most patches are background
        return {
            "digit": functional.cross_entropy(parts["digit"].flatten(0, 1), dense["digit"].flatten()),
            "colour": functional.cross_entropy(parts["colour"].flatten(0, 1), dense["colour"].flatten(), weight=weight),
            "place": _place_loss(parts["place"], dense["place"]),
        }

    def _words_loss(self, projected: Tensor, dense: dict[str, Tensor]) -> Tensor:
        """Draw every ink patch's embedding towards those of its digit's and its colour's word."""
        table = self.network.model.get_input_embeddings().weight
        seen = functional.normalize(projected, dim=-1)
        total = projected.new_zeros(())
        for name, ids in (("digit", self.digit_words), ("colour", self.colour_words)):
            target = dense[name].flatten()
            here = (target >= 0) & (target < len(ids))
            likeness = 16 * seen.flatten(0, 1)[here] @ functional.normalize(table[ids], dim=-1).T
            total = total + functional.cross_entropy(likeness, target[here])
        return total

    def _seen_losses(self, hidden: Tensor, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses of what visual tokens know about their digit inside the language model."""
        out = self.seen(self.seen_norm(hidden))
        parts = dict(zip(SEEN, out.split(tuple(SEEN.values()), dim=-1), strict=True))
        losses = {}
        for name in ("way", "rank", "side"):
            known = (seen[name] != IGNORED).sum().clamp(min=1)
            losses[name] = functional.cross_entropy(parts[name], seen[name], reduction="sum") / known
        losses["where"] = _place_loss(parts["place"], seen["place"])
        return losses

    def _visual(self, projected: Tensor, batch: VideoBatch) -> Tensor:
        """Embeddings of all visual tokens in order: pooled clips and whole pictures, a newline behind each."""
        inner = self.network.model
        rows = []
        for start, end, pooled in batch.parts:
            part = projected[start:end]
            rows += [(inner.apply_pooling(part) if pooled else part).flatten(0, 1), inner.image_newline[None]]
        return torch.cat(rows)

    def _look_loss(self, hidden: Tensor, here: Tensor, batch: VideoBatch) -> Tensor:
        """Draw the attention of a place that waits for an answer to the visual tokens of the digit that answers.

        The attention is that of layer `LOOK`, whose input (B, L, 96) is `hidden`: minus the logarithm of the share that
        falls on those tokens, meant over heads.
        """
        decoder = self.network.model.language_model
        layer = decoder.layers[LOOK]
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        split = (*hidden.shape[:2], -1, attention.head_dim)
        query, key = (proj(normed).view(split).transpose(1, 2) for proj in (attention.q_proj, attention.k_proj))
        query, key = apply_rotary_pos_emb(query, key, *decoder.rotary_emb(hidden, batch.positions))
        row, place, digit = batch.asked.unbind(1)
        scores = (query[row, :, place][:, :, None] @ key[row].mT)[:, :, 0] * attention.scaling
        scores = scores.masked_fill(~batch.mask[row, 0, place][:, None], float("-inf")).log_softmax(-1)
        whose = torch.full_like(batch.ids, IGNORED).masked_scatter(here, batch.seen["whose"])
        there = whose[row] == digit[:, None]
        kept = there.any(-1)  # a digit may own no pooled token
        share = scores[kept].masked_fill(~there[kept][:, None], float("-inf")).logsumexp((1, 2))
        return (math.log(scores.shape[1]) - share).sum() / kept.sum().clamp(min=1)

    def _answer(self, projected: Tensor, batch: VideoBatch) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Logits at labelled positions, hidden states (B, L, 96) by layer, and which of them are visual tokens."""
        inner = self.network.model
        embeds = inner.get_input_embeddings()(batch.ids)
        here = (batch.ids == inner.config.image_token_id) | (batch.ids == inner.config.video_token_id)
        embeds = embeds.masked_scatter(here[..., None].expand_as(embeds), self._visual(projected, batch))
        blocked = torch.zeros_like(batch.mask, dtype=embeds.dtype).masked_fill(
            ~batch.mask, torch.finfo(embeds.dtype).min
        )
        out = inner.language_model(
            inputs_embeds=embeds,
            attention_mask=blocked,
            position_ids=batch.positions,
            use_cache=False,
            output_hidden_states=True,
        )
        logits = self.network.lm_head(out.last_hidden_state[batch.labels != IGNORED])
        return logits, out.hidden_states, here
