"""The model in training: its losses, and how its tower grows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import batches, build
from .batches import Batch
from .scenes import COLOUR_NAMES, MOST_GLYPHS

DENSE = {"digit": 10, "colour": len(COLOUR_NAMES) + 1, "count": MOST_GLYPHS, "place": 3}


class Trainee(nn.Module):
    """The model together with the auxiliary heads that only training needs."""

    def __init__(self, network: Any, words: Any) -> None:
        super().__init__()
        self.network = network
        self.digit_words = [words.encode(f" {digit}", add_special_tokens=False)[0] for digit in range(10)]
        self.colour_words = [words.encode(f" {name}", add_special_tokens=False)[0] for name in COLOUR_NAMES]
        self.norm = nn.LayerNorm(build.WIDTH)
        self.dense = nn.Linear(build.WIDTH, sum(DENSE.values()))
        self.summary = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(build.WIDTH), nn.Linear(build.WIDTH, 10 + len(COLOUR_NAMES) + MOST_GLYPHS))
            for _ in range(2)
        )

    def forward(self, batch: Batch, joint: bool) -> tuple[dict[str, Tensor], Tensor | None]:
        """Losses by name, and the logits (n, vocabulary) at the n labelled positions."""
        seen = self.network.model.vision_tower(batch.pixels, output_hidden_states=True)
        feature = seen.hidden_states[-2]
        losses = self._dense_losses(self.dense(self.norm(feature[:, 1:])), batch)
        for name, head, token in zip(("cls", "cls_last"), self.summary, (feature, seen.last_hidden_state), strict=True):
            losses[name] = functional.binary_cross_entropy_with_logits(head(token[:, 0]), batch.summary)
        if not joint:
            return losses, None
        projected = self.network.model.multi_modal_projector(feature[:, 1:])
        losses["words"] = self._words_loss(projected, batch)
        logits = self._answer(projected, batch)
        target = batch.labels[batch.labels != batches.IGNORED]
        losses["answer"] = functional.cross_entropy(logits, target)
        return losses, logits

    @staticmethod
    def _dense_losses(out: Tensor, batch: Batch) -> dict[str, Tensor]:
        parts = dict(zip(DENSE, out.split(tuple(DENSE.values()), dim=-1), strict=True))
        losses = {}
        for name in ("digit", "colour", "count"):
            target = batch.dense[name]
            weight = torch.ones(DENSE[name], device=out.device)
            if name == "colour":
                weight[-1] = 0.3  # background fills five patches of six
            losses[name] = functional.cross_entropy(parts[name].flatten(0, 1), target.flatten(), weight=weight)
        known = ~batch.dense["place"].isnan()
        gap = torch.where(known, parts["place"] - batch.dense["place"].nan_to_num(), 0.0)
        losses["place"] = (
            4 * functional.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="sum", beta=0.05) / (known.sum())
        )
        return losses

    def _words_loss(self, projected: Tensor, batch: Batch) -> Tensor:
        """Draw every ink patch's embedding towards those of its digit's and its colour's word.

        Questions name digits and colours: a word and its patches then resemble each other, which is meant to help
        attention find them. What it brings alone has not been measured.
        """
        table = self.network.model.get_input_embeddings().weight
        seen = functional.normalize(projected, dim=-1)
        total = projected.new_zeros(())
        for name, ids in (("digit", self.digit_words), ("colour", self.colour_words)):
            target = batch.dense[name].flatten()
            target = torch.where(target < len(ids), target, batches.IGNORED)
            likeness = 16 * seen.flatten(0, 1) @ functional.normalize(table[ids], dim=-1).T
            total = total + functional.cross_entropy(likeness, target)
        return total

    def _answer(self, projected: Tensor, batch: Batch) -> Tensor:
        inner = self.network.model
        embeds = inner.get_input_embeddings()(batch.ids)
        here = (batch.ids == inner.config.image_token_id)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(here, projected)
        blocked = torch.zeros_like(batch.mask, dtype=embeds.dtype).masked_fill(
            ~batch.mask, torch.finfo(embeds.dtype).min
        )
        hidden = inner.language_model(
            inputs_embeds=embeds, attention_mask=blocked, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        return self.network.lm_head(hidden[batch.labels != batches.IGNORED])


def grow(trainee: Trainee, words: Any) -> Trainee:
    """The same function with twice the tower layers: new ones add zero until they have learned.

    Layers 0..n-2 move to 0, 2, .., so that the output of the second-to-last layer, which the language model reads,
    stays what it was; the last stays last.
    """
    old = trainee.network.model.vision_tower.encoder.layers
    deep = Trainee(build.model(words, depth=2 * len(old)), words)
    new = deep.network.model.vision_tower.encoder.layers
    state = {k: v for k, v in trainee.state_dict().items() if ".encoder.layers." not in k}
    deep.load_state_dict(state, strict=False)
    for place, layer in enumerate(new):
        source = len(old) - 1 if place == len(new) - 1 else min(place // 2, len(old) - 2)
        layer.load_state_dict(old[source].state_dict())
        copied = place % 2 == 1 or place == len(new) - 2
        if copied and place != len(new) - 1:
            for linear in (layer.self_attn.out_proj, layer.mlp.fc2):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
    return deep
