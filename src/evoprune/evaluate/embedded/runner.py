"""The library's own runner: an embedded model on its benchmark in batches, tower features shared over cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from ... import schedules
from ...apply import Handle, apply
from ...pruners import KeepFirst
from ...tiny import defaults as brought
from ...video.clip import sample_indices
from ..arms import FRAMES, Arm
from ..records import Answer, Outcome, Question
from ..shown import Shown
from ..sweep import Refused
from . import tasks as embedded_tasks
from .memo import TowerMemo
from .model import BATCH, EmbeddedModel
from .tasks import MODELS, TASKS
from .told import told

_SPEED = ("encoder_batch", "encoder_mode")  # of the options: how the tower runs, not what it makes


class Embedded:
    """`sweep.Runner` of the embedded models ``"tiny"`` and ``"tiny-video"``.

    Every question goes through the processor and ``generate``, whatever is shared: the methods behind the tower, and
    the questions about one picture, get what the tower made of it when it was first shown (`memo`).

    Parameters
    ----------
    limit
        The first so many questions of a task; all if None.
    batch
        Questions a call; by default that of the benchmark.
    dtype, device
        Of the model; float32 if None.
    options
        Given to `evoprune.apply` beside the pruner, such as ``pool="average"``; the unpruned model gets them too.
    defaults
        Settings for the methods that have them, over those that the model brings along (its recipes, its embeddings
        as text tower).
    share
        Whether the tower's features are shared.

    Raises
    ------
    ValueError
        An unknown model, dtype or option, or a number below 1.
    """

    harness = "batched"
    main = True

    def __init__(
        self,
        name: str,
        *,
        limit: int | None = None,
        batch: int | None = None,
        dtype: torch.dtype | str | None = None,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        share: bool = True,
    ):
        for what, value in (("limit", limit), ("batch", batch)):
            if value is not None and value < 1:
                raise ValueError(f"{what}={value} asks nothing: give at least 1, or None for the default")
        self.options = dict(options or {})
        self.choices = {key: value for key, value in self.options.items() if key not in _SPEED}
        self.loaded: EmbeddedModel | None = EmbeddedModel(name, dtype, device, self.choices)
        self.name, self.limit = name, limit
        self.batch = batch or BATCH[self.loaded.modality]
        self.defaults = {**brought.defaults(name), **(defaults or {})}
        self.memo = TowerMemo() if share else None

    @property
    def embedded(self) -> EmbeddedModel:
        """The loaded model; ValueError once it was let go of."""
        if self.loaded is None:
            raise ValueError(f"this runner of {self.name} is closed: make another one")
        return self.loaded

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.embedded.model

    @property
    def processor(self) -> Any:
        """Its processor, which is never changed."""
        return self.embedded.processor

    def configuration(self) -> dict[str, Any]:
        """Return the JSON values that decide the answers; whether features are shared does not."""
        return {
            **self.embedded.facts(),
            "limit": self.limit,
            "batch": self.batch,  # sums round differently, and a close choice may fall another way
            "options": {key: self.options[key] for key in sorted(self.options)},
            "defaults": told(self.defaults),
        }

    def video(self, task: str) -> bool:
        """Whether the task shows clips."""
        self._check(task)
        return TASKS[task] == "video"

    def questions(self, task: str) -> Sequence[Question]:
        """Return the questions of a task, without running the model."""
        self._check(task)
        return embedded_tasks.questions(task, self.limit)

    def run(self, task: str, arm: Arm, advance: Callable[[int], None]) -> Outcome:
        """Run one cell; `advance` is told the number of questions answered so far.

        Raises
        ------
        Refused
            The model cannot run the arm.
        ValueError
            The task was made for another model.
        """
        self._check(task)
        begin, asked = time.perf_counter(), embedded_tasks.examples(task, self.limit)
        frames = self._frames(arm) if arm.method == FRAMES else None
        ids, said = [question.id for question in self.questions(task)], []
        with ExitStack() as stack:
            handle = self._applied(arm, stack)
            if self.memo is not None:
                # Single frames would be encoded in other batches, and round otherwise, if all are not there yet: a
                # sweep that is resumed must not see a difference.
                memo = self.memo if frames is None else TowerMemo()
                stack.enter_context(memo.over(self.model, handle))
            shown = stack.enter_context(Shown(self.embedded.family, self.embedded.modality, handle).watched())
            for number, word in enumerate(self.embedded.answers(asked, self.batch, frames)):
                if number % self.batch == 0:
                    shown.look()
                said.append(Answer(ids[number], word, float(word == asked[number].answer)))
                advance(len(said))
        accuracy = sum(one.score for one in said) / len(said)
        seconds = time.perf_counter() - begin
        return Outcome(tuple(said), shown.tokens, shown.layers, {"accuracy": accuracy}, seconds)

    def close(self) -> None:
        """Let go of the model and of the features."""
        self.loaded = None
        if self.memo is not None:
            self.memo.clear()

    def _check(self, task: str) -> None:
        embedded_tasks.examples(task, 0)  # refuses an unknown one
        if MODELS[task] != self.name:
            raise ValueError(
                f"{task} was made for the model {MODELS[task]}, not for {self.name}: evaluate {MODELS[task]} on it, or "
                f"{self.name} on {self.embedded.task}"
            )

    def _applied(self, arm: Arm, stack: ExitStack) -> Handle | None:
        """Apply the arm's pruner until `stack` closes; the unpruned model stays as it is, but for the options."""
        try:
            pruner = arm.pruner(self.defaults)
            if pruner is None and not self.choices:
                return None
            given = KeepFirst(1.0) if pruner is None else pruner
            handle = apply(self.model, given, tokenizer=self.processor.tokenizer, **self.options)
        except ValueError as error:
            raise Refused(str(error)) from error
        return stack.enter_context(handle)

    def _frames(self, arm: Arm) -> list[int]:
        """Return the numbers of evenly spread frames that have as many tokens as `keep` leaves of all, or nearly."""
        if self.embedded.modality != "video":
            raise Refused(f"{self.name} sees pictures, of which no frames can be left out: use downsample")
        frames, tokens = self.embedded.clip_tokens()
        keep = 1.0 if arm.keep is None else arm.keep
        if type(keep) is int:
            keep = min(keep, tokens)  # as pruners have it here, whose int above what there is keeps everything
        try:
            share = schedules.count(keep, tokens) / tokens
        except (TypeError, ValueError) as error:
            raise Refused(str(error)) from error
        return sample_indices(frames, schedules.count(share, frames))
