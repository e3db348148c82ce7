"""What the question asks for: the cosine of each unit of a picture with the prompt's text, for the feature stage."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import unit
from .base import Family, Modality
from .facts import Facts
from .forms import Packed
from .groups import Group
from .prompt_items import items_of
from .questions import Embeddings, Words
from .state import Run, TowerState
from .text_towers import WAY_OUT, TextTower
from .undo import set_attribute

ASKED = "_evoprune_asked"  # on the state of the tower: what answers for the question
EMBEDDINGS = "embeddings"


class Asked:
    """The question of each row of the prompt in progress, and how many items the tower is called with."""

    def __init__(self, family: Family, reader: Embeddings | Words):
        self.family, self.reader = family, reader
        self.names = list(inspect.signature(type(family.tower).forward).parameters)[1:]  # the instance's may be wrapped
        self.facts: Facts | None = None
        self.vectors: Tensor | None = None
        self.items: dict[Modality, int] = {}

    def begin(self, facts: Facts | None) -> None:
        """Forget what an earlier prompt asked."""
        if facts is not self.facts:
            self.facts, self.vectors, self.items = facts, None, {}

    def question(self) -> tuple[Facts, Tensor]:
        """Return the prompt in progress and its question, float32 (B, D), at most of length 1.

        Raises
        ------
        ValueError
            The tower was called without a prompt, its text is not known, or a picture stands in a prompt without text.
        """
        if self.facts is None or self.facts.ids is None:
            missing = "called without a prompt" if self.facts is None else "given inputs_embeds without input_ids"
            raise ValueError(
                f"{self.family.name} was {missing}, and the pruner ranks tokens by the question: call generate or "
                "forward of the model with input_ids, or use a method that does not read the question"
            )
        if self.vectors is None:
            silent = self.reader.silent(self.facts)
            row = next((block.row for block in self.facts.blocks if silent[block.row]), None)
            if row is not None:
                raise ValueError(
                    f"row {row} of the prompt has a picture and no text but special tokens, and the pruner ranks "
                    "tokens by the question: ask something, or use a method that does not read it"
                )
            self.vectors = self.reader.vectors(self.facts)
        return self.facts, self.vectors


def install_relevance(family: Family, state: TowerState, processor: Any, stack: ExitStack) -> None:
    """Prepare what `relevance` needs, by what the feature pruner's setting `text_tower` names.

    Raises
    ------
    ValueError
        No text tower is named, it cannot be used with this family, or a processor is needed and missing.
    """
    pruner: Any = state.plan.feature
    source = getattr(pruner, "text_tower", EMBEDDINGS)
    if source is None:
        raise ValueError(
            f"{pruner.name} ranks tokens by the question, and text_tower=None does not say what understands it: give "
            "text_tower='openai/clip-vit-large-patch14-336' (the CLIP or SigLIP that the vision tower was taken from), "
            f"{WAY_OUT}"
        )
    tokenizer = getattr(processor, "tokenizer", processor)
    if isinstance(source, str) and source == EMBEDDINGS:
        reader: Embeddings | Words = Embeddings(family, tokenizer)
    else:
        reader = _words(family, source, tokenizer)
    settled = getattr(pruner, "settled", None)
    if settled is not None:
        state.plan.picker = settled(reader.kind)
    asked = Asked(family, reader)
    set_attribute(state, ASKED, asked, stack)

    def before_tower(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        asked.begin(state.facts)
        items = len(family.items({**dict(zip(asked.names, args, strict=False)), **kwargs}))
        asked.items[state.modality] = max(items, asked.items.get(state.modality, 0))  # the whole call, then its chunks

    stack.callback(family.tower.register_forward_pre_hook(before_tower, with_kwargs=True).remove)


def _words(family: Family, source: str | nn.Module, tokenizer: Any) -> Words:
    plain = not isinstance(family.form, Packed) and not family.picks_itself and family.unit_side == 1
    if not plain or len(family.feature_layers) != 1:
        raise ValueError(
            f"the projector of {family.name} does not take the patch states of one layer, which text_tower needs to "
            "lead them into the space of the text: use text_tower='embeddings'"
        )
    if not hasattr(tokenizer, "decode"):
        raise ValueError(
            "text_tower reads the question in words, which only the model's tokenizer can write: call "
            "apply(model, pruner, tokenizer=processor.tokenizer), or use text_tower='embeddings'"
        )
    tower = TextTower(source, next(family.tower.parameters()).device)
    if tower.width != family.width:
        raise ValueError(
            f"the vision tower of {family.name} is {family.width} wide and that of text_tower {tower.width}: give the "
            f"CLIP or SigLIP that it was taken from, {WAY_OUT}"
        )
    return Words(tower, tokenizer)


def wants_tower(state: TowerState) -> bool:
    """Return whether `relevance` needs the tower's patch states (the projector's input) besides the projected ones."""
    asked: Asked | None = getattr(state, ASKED, None)
    return asked is not None and isinstance(asked.reader, Words)


def relevance(
    state: TowerState, group: Group, run: Run, projected: Tensor, entered: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the relevance of a group's units to the question, float32 (G, N), and each item's picture, int64 (G,).

    Pictures are numbered over the whole call; the frames of a video are pictures of their own, and so are tiles where
    the prompt does not tell which of them make up a picture. As the spread of relevance is a picture's, rows of all
    runs of the tower (`encoder_batch`) belong in one `FeatureView`.

    Parameters
    ----------
    projected
        (G, N, C) units behind the projector.
    entered
        (G, N, D) patch states of the tower before it, in the same order; used only where `wants_tower` asks for them.

    Raises
    ------
    ValueError
        The tower was called without a prompt, or with pictures that its prompt does not hold.
    RuntimeError
        It is being recorded as a graph, which would keep one question for ever.
    """
    if torch.compiler.is_compiling() or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        raise RuntimeError("a graph would keep the question of the call that it is recorded in")
    asked: Asked = getattr(state, ASKED)
    asked.begin(state.facts)
    facts, question = asked.question()
    number, runs = asked.items.get(run.modality, run.images), state.runs.get(run.modality, [run])
    first = sum(one.images for one in runs[: runs.index(run)])
    places = items_of(facts, run.modality, number, asked.family)[first : first + run.images]
    units = unit(asked.reader.units(projected, entered))
    asking = question[[places[item].row for item in group.items]].to(units.device)
    with torch.autocast(units.device.type, enabled=False):
        cosines = torch.bmm(units, asking[:, :, None]).squeeze(2)
    return cosines, torch.tensor([places[item].picture for item in group.items], device=units.device)
