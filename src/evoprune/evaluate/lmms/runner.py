"""Cells of a sweep through lmms-eval: its prompts and its scoring, one model for all arms."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from ...apply import Handle, apply
from ...models import FAMILIES
from ...pruners import KeepFirst
from ...tiny import defaults as brought
from .. import catalogue
from ..arms import FRAMES, Arm
from ..embedded import tasks as embedded_tasks
from ..embedded.told import place, told
from ..records import Outcome, Question
from ..sweep import Refused
from .checks import check_base, check_machine
from .facts import facts
from .generation import check as check_generation
from .quiet import quiet
from .setup import STOCK, arguments, config_of

SPEED = ("encoder_batch", "encoder_mode")  # options: how the tower runs, not what it makes


class LmmsEval:
    """`sweep.Runner` of any model that lmms-eval has a class for, or that `auto` runs.

    In a launch of several processes each runs its share of every cell, and the first has the answers.

    Parameters
    ----------
    name
        ``"tiny"``, ``"tiny-video"``, a folder or a hub id.
    base
        Model class of lmms-eval; by default the one for the model's type, else ``"auto"``.
    model_args
        More arguments of that class.
    limit
        The first so many questions of a task; all if None.
    batch
        Questions a call.
    dtype, device, attention
        Handed to classes that take them; ``"auto"`` leaves the class its default.
    frames
        Of a video; the class's default if None.
    options
        Of `evoprune.apply`; the unpruned model gets those of its family too.
    defaults
        Settings for the methods that have them, over those that the model brings along.
    gen_kwargs
        Over the settings of generation of every task.

    Raises
    ------
    ValueError
        lmms-eval is missing, an unknown base or one for other models, an argument or a value that its class or
        generation does not take, a device or a package that is not there, or a number below 1.
    """

    harness = "lmms-eval"

    def __init__(
        self,
        name: str,
        *,
        base: str | None = None,
        model_args: Mapping[str, Any] | None = None,
        limit: int | None = None,
        batch: int | None = None,
        dtype: str = "auto",
        device: str = "auto",
        attention: str = "sdpa",
        frames: int | None = None,
        options: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
        gen_kwargs: Mapping[str, Any] | None = None,
    ):
        for what, value in (("limit", limit), ("batch", batch), ("frames", frames)):
            if value is not None and value < 1:
                raise ValueError(f"{what}={value} asks nothing: give at least 1, or None for the default")
        self.name, self.limit, self.config = name, limit, config_of(name)
        self.base = base or STOCK.get(self.config.model_type, "auto")
        check_base(self.base, self.config.model_type, name)
        check_generation(gen_kwargs or {})
        self.options, self.gen_kwargs = dict(options or {}), dict(gen_kwargs or {})
        self.choices = {key: value for key, value in self.options.items() if key not in SPEED}
        self.defaults = {**brought.defaults(name), **(defaults or {})}
        wanted = {"batch": batch, "dtype": dtype, "device": device, "attention": attention, "frames": frames}
        self.arguments = {"pretrained": name, **arguments(self.base, wanted, model_args or {})}
        check_machine(self.arguments)
        self._lm: Any = None
        self._questions: dict[str, tuple[Question, ...]] = {}

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return int(os.environ.get("RANK", 0)) == 0

    @property
    def lm(self) -> Any:
        """The model of lmms-eval, built when it is first needed."""
        if self._lm is None:
            from .models import build

            self._lm = build(self.base, self.arguments)
        return self._lm

    @property
    def model(self) -> Any:
        """The transformers model."""
        return self.lm.model

    @property
    def processor(self) -> Any:
        """Its processor."""
        return getattr(self.lm, "_image_processor", None) or self.lm.processor

    def configuration(self) -> dict[str, Any]:
        """Return the JSON values that decide the answers."""
        return {
            **facts(self.name, self.base, self.config),
            **place(torch.device(self.arguments.get("device") or ("cuda" if torch.cuda.is_available() else "cpu"))),
            "processes": int(os.environ.get("WORLD_SIZE", 1)),  # which batches there are depends on it
            "dtype": self.arguments.get("dtype", "float32" if self.name in brought.EMBEDDED else "auto"),
            "arguments": told(
                {key: value for key, value in self.arguments.items() if key not in ("pretrained", "device")}
            ),
            "limit": self.limit,
            "options": told(self.options),
            "defaults": told(self.defaults),
            "gen_kwargs": dict(sorted(self.gen_kwargs.items())),
            **({"judge": judge} if (judge := catalogue.judge()) else {}),
        }

    def video(self, task: str) -> bool:
        """Whether the task shows videos."""
        return catalogue.modality(task) == "video"

    def questions(self, task: str) -> Sequence[Question]:
        """Return the questions of a task, without the model."""
        if task not in self._questions:
            from . import tasks as lmms_tasks

            found = None if task in embedded_tasks.TASKS else lmms_tasks.load(task, self.limit, self.base)
            self._questions[task] = lmms_tasks.questions(task, found, self.limit)
        return self._questions[task]

    def run(self, task: str, arm: Arm, advance: Callable[[int], None]) -> Outcome:
        """Run one cell; `advance` is told the number of questions answered so far.

        Raises
        ------
        Refused
            The model cannot run the arm.
        RuntimeError
            Answers are missing.
        """
        from .guard import Unseen
        from .watch import Watch

        begin, asked = time.perf_counter(), self.questions(task)
        self._check_modality(task)
        processes = int(os.environ.get("WORLD_SIZE", 1))
        with ExitStack() as stack:
            if arm.method == FRAMES:
                self._fewer(task, arm, stack)
            handle = self._applied(arm, stack)
            watch = Watch(self.lm, handle, advance=lambda n: advance(min(len(asked), n * processes)))
            stack.callback(watch.close)
            watch.install(frees=False)
            try:
                results = self._evaluate(task)
            except Unseen as error:
                raise Refused(str(error)) from error
        seen, seconds = watch.seen, time.perf_counter() - begin
        if results is None:  # another process has them
            return Outcome((), seconds=seconds)
        from . import tasks as lmms_tasks

        found = lmms_tasks.answers(task, asked, results["samples"][task])
        metrics = {
            name.removesuffix(",none"): value
            for name, value in results["results"][task].items()
            if _reported(name, value)
        }
        return Outcome(found, seen.tokens, seen.layer_tokens, metrics, seconds)

    def close(self) -> None:
        """Let go of the model."""
        if self._lm is not None:
            self._lm.clean()
            self._lm = None

    def _evaluate(self, task: str) -> Any:
        from lmms_eval.evaluator import simple_evaluate

        from . import tasks as lmms_tasks

        settings = {**catalogue.generation(task), **self.gen_kwargs}
        with quiet():
            return simple_evaluate(
                model=self.lm,
                tasks=[task],
                task_manager=lmms_tasks.Settled(lmms_tasks.manager(task, self.limit, self.base), settings),
                batch_size=self.arguments.get("batch_size", 1),
                limit=self.limit,
                log_samples=True,
                bootstrap_iters=0,  # intervals are computed later, for all arms alike
                verbosity="ERROR",
            )

    def _applied(self, arm: Arm, stack: ExitStack) -> Handle | None:
        """Apply the arm's pruner until `stack` closes; the unpruned model stays as it is, but for the options."""
        try:
            pruner = arm.pruner(self.defaults)
            if pruner is None and not self.choices:
                return None
            given = KeepFirst(1.0) if pruner is None else pruner
            handle = apply(self.model, given, tokenizer=getattr(self.lm, "tokenizer", None), **self.options)
        except ValueError as error:
            raise Refused(str(error)) from error
        return stack.enter_context(handle)

    def _check_modality(self, task: str) -> None:
        """Refuse videos for a model of pictures, which would be asked without them.

        Other classes of lmms-eval than those that are known here may show frames as pictures.
        """
        if self.base not in (*STOCK.values(), "auto") or not self.video(task):
            return
        family = next((one for one in FAMILIES if self.config.model_type in one.model_types), None)
        if family is not None and "video" not in family.modalities:
            raise Refused(f"{task} shows videos, and {family.name} sees pictures alone: choose a model for videos")

    def _fewer(self, task: str, arm: Arm, stack: ExitStack) -> None:
        from .frames import show_fewer

        if not self.video(task):
            raise Refused(f"{task} shows pictures, of which no frames can be left out: use downsample")
        show_fewer(self.lm, arm.keep, self.choices, stack)


def _reported(name: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return number and "stderr" not in name and name not in ("samples",)
