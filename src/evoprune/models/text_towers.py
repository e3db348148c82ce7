"""CLIP and SigLIP beside a model: the question and the patches of a picture in the space that the two share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import unit

KINDS = ("clip", "siglip")
WAY_OUT = "or text_tower='embeddings', the language model's own"


class TextTower:
    """The text side of a CLIP or SigLIP, and what takes patch states of its vision side into the shared space.

    Parameters
    ----------
    source
        Name or folder of a checkpoint, or the model itself, whose tokenizer is its attribute `tokenizer` or that of the
        checkpoint it came from. It is left as it is.
    device
        Where a checkpoint is put, in float32.

    Raises
    ------
    ValueError
        It cannot be loaded, is neither a CLIP nor a SigLIP, or has no tokenizer that fits it.

    Notes
    -----
    Patches take the way of the picture's own embedding: in CLIP the tower's last norm and the visual projection, as
    CDPruner has it (arXiv 2506.10967, section 3.2); in SigLIP, which has no projection, the last norm and the pooling
    head, to which each patch is shown as a sequence of one.
    """

    def __init__(self, source: str | nn.Module, device: torch.device):
        model, self.tokenizer = _found(source, device)
        name = source if isinstance(source, str) else type(source).__name__
        vision: Any = getattr(model, "vision_model", None)
        if all(hasattr(model, one) for one in ("text_model", "visual_projection", "text_projection")):
            self.kind, head = "clip", model.visual_projection
        elif hasattr(model, "text_model") and hasattr(vision, "head"):
            self.kind, head = "siglip", vision.head
        else:
            raise ValueError(f"text_tower={name!r} has no text and vision side in one space: give a CLIP or SigLIP")
        self.text, self.text_projection = model.text_model, getattr(model, "text_projection", None)
        self.norm = copy.deepcopy(vision.post_layernorm).float().requires_grad_(False)
        self.head = copy.deepcopy(head).float().requires_grad_(False)
        self.width, self.longest = _size(model)
        self.before, self.behind = self._marks(name)

    def _marks(self, name: str) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer writes before and behind a text."""
        bare, whole = (self._ids("a", add_special_tokens=wanted) for wanted in (False, True))
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        before, behind = whole[:at], whole[at + len(bare) :]
        end = getattr(self.text.config, "eos_token_id", None)
        if self.kind == "clip" and (not behind or (end not in (2, behind[-1]))):  # 2: checkpoints older than their id
            raise ValueError(
                f"the tokenizer of text_tower={name!r} ends a text with {behind[-1:]}, and the model reads it at token "
                f"{end}: give the tokenizer that belongs to it, {WAY_OUT}"
            )
        return before, behind

    def _ids(self, text: str, **settings: Any) -> list[int]:
        return list(self.tokenizer(text, truncation=False, verbose=False, **settings)["input_ids"])

    def segments(self, text: str) -> list[list[int]]:
        """Return a text's ids in segments of the length that the tower takes, none for an empty one.

        Each has its marks of beginning and end. (The official code of CDPruner cuts the marked text, so that CLIP finds
        no end in the first of several segments and reads it at its beginning, the same for every question.)
        """
        ids, size = self._ids(text, add_special_tokens=False), self.longest - len(self.before) - len(self.behind)
        return [self.before + ids[i : i + size] + self.behind for i in range(0, len(ids), size)]

    @torch.no_grad()
    def questions(self, texts: Sequence[str]) -> Tensor:
        """Return the mean of the unit embeddings of each text's segments, float32 (B, D); zeros for an empty text."""
        parts = [self.segments(text) for text in texts]
        flat = [segment for segments in parts for segment in segments]
        if not flat:
            return torch.zeros(len(texts), self._embedded([self.before + self.behind]).shape[1])
        each = self._embedded(flat).split([len(segments) for segments in parts])
        return torch.stack([one.sum(0) / max(1, len(one)) for one in each])

    def _embedded(self, segments: list[list[int]]) -> Tensor:
        width = max(map(len, segments)) if self.kind == "clip" else self.longest
        # CLIP reads at the first end, before all that follows; SigLIP was trained on texts filled up to one length.
        fill = self.behind[-1] if self.kind == "clip" else int(self.tokenizer.pad_token_id)
        weight = next(self.text.parameters())
        ids = torch.tensor([one + [fill] * (width - len(one)) for one in segments], device=weight.device)
        training = self.text.training
        self.text.eval()
        try:
            with torch.autocast(weight.device.type, enabled=False):
                pooled = self.text(input_ids=ids).pooler_output
                return unit(pooled if self.text_projection is None else self.text_projection(pooled))
        finally:
            self.text.train(training)

    @torch.no_grad()
    def patches(self, hidden: Tensor) -> Tensor:
        """Return patch states (B, N, C) of the vision side in the shared space, float32 (B, N, D)."""
        with torch.autocast(hidden.device.type, enabled=False):
            states = self.norm.to(hidden.device)(hidden.float())
            head = self.head.to(hidden.device)
            return head(states) if self.kind == "clip" else head(states.flatten(0, 1)[:, None]).view(*hidden.shape)


def _found(source: str | nn.Module, device: torch.device) -> tuple[Any, Any]:
    """Return the model and its tokenizer."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    if isinstance(source, nn.Module):
        tokenizer, name = getattr(source, "tokenizer", None), getattr(source, "name_or_path", "")
        if tokenizer is None and not name:
            raise ValueError(
                f"text_tower is a {type(source).__name__} without a tokenizer: set its attribute `tokenizer`, {WAY_OUT}"
            )
        return source, tokenizer or AutoTokenizer.from_pretrained(name)
    try:
        kind = AutoConfig.from_pretrained(source).model_type
        if kind not in KINDS:
            raise ValueError(f"it is a {kind!r}")
        return AutoModel.from_pretrained(source, dtype=torch.float32).to(device), AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"text_tower={source!r} cannot be loaded as a CLIP or SigLIP with its tokenizer ({reason}): give the name "
            f"or folder of one, for example 'openai/clip-vit-large-patch14-336', {WAY_OUT}"
        ) from error


def _size(model: Any) -> tuple[int, int]:
    """Return the width of the vision side and the longest text, in tokens."""
    return int(model.config.vision_config.hidden_size), int(model.config.text_config.max_position_embeddings)
