"""A resumable training run in one folder: optimizer steps, checkpoint, log rows, exported model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..bench import manifest
from . import batches, build, questions
from .batches import Prompts
from .muon import Muon
from .trainee import Trainee, grow

BINDING = ("digit", "colour")
CHECKPOINT = "checkpoint.pt"


def optimizers(trainee: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer layers, AdamW for everything else."""
    inside: list[nn.Parameter] = []
    outside: list[nn.Parameter] = []
    for name, parameter in trainee.named_parameters():
        (inside if ".layers." in name and parameter.ndim == 2 else outside).append(parameter)
    return [
        Muon(inside, lr=rate, weight_decay=0.02),
        torch.optim.AdamW(outside, lr=rate, weight_decay=0.01, betas=(0.9, 0.98)),
    ]


def to(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors, and those in its dictionaries, on `device`."""
    moved: dict[str, Any] = {}
    for name, value in vars(batch).items():
        if isinstance(value, Tensor):
            moved[name] = value.to(device)
        elif isinstance(value, dict):
            moved[name] = {key: part.to(device) for key, part in value.items()}
    return replace(batch, **moved)


class Run:
    """The image model's run; what differs for another model is in the methods before `save`.

    Parameters
    ----------
    folder
        Where everything goes; a checkpoint found there is resumed.
    plan
        Stages and sizes.
    device
        Where to train.
    """

    weights: ClassVar[dict[str, float]] = {"digit": 2.0, "answer": 2.0}  # of the losses; 1 for the others
    measured_from = 1  # the first stage that answers questions
    start = "random weights"  # for the manifest
    plan: Any

    def __init__(self, folder: Path, plan: Any, device: torch.device) -> None:
        self.folder, self.plan, self.device = folder, plan, device
        folder.mkdir(parents=True, exist_ok=True)
        self.prompts = self.prompter()
        self.words = self.prompts.words
        self.step = 0
        self.spent = 0.0
        torch.manual_seed(plan.seed)
        resumed = (folder / CHECKPOINT).exists()
        self._set(self.begin())
        if resumed:
            self._resume()

    def prompter(self) -> Prompts:
        """What writes prompts, with its tokenizer."""
        return Prompts(build.tokenizer(batches.corpus()))

    def processor(self) -> Any:
        """The processor that is exported with the model."""
        return build.processor(self.words)

    def begin(self) -> Any:
        """The trainee of step 0."""
        return Trainee(build.model(self.words, depth=build.DEPTH // 2), self.words)

    def grown(self, copy: bool) -> Any:
        """The trainee of this step if that of the step before is another, else None; `copy` keeps what was learned."""
        deep = len(self.trainee.network.model.vision_tower.encoder.layers) >= build.DEPTH
        if deep or self.plan.stage(self.step if copy else self.step - 1) < 2:
            return None
        return grow(self.trainee, self.words) if copy else Trainee(build.model(self.words, build.DEPTH), self.words)

    def batch(self) -> Any:
        """What this step reads."""
        plan, dense = self.plan, self.plan.stage(self.step) == 0
        return batches.batch(
            self.prompts,
            "train",
            1,
            plan.first_scene(self.step),
            plan.dense_batch if dense else plan.batch,
            each=1 if dense else 16,
            kinds=BINDING if plan.binding(self.step) else questions.KINDS,
            difficulty=plan.difficulty(self.step),
        )

    def held_out(self) -> Iterator[Any]:
        """Batches of dev questions."""
        for first in range(0, 240, 12):
            yield batches.batch(self.prompts, "dev", 5, first, 12)

    def save(self) -> None:
        """Write the checkpoint (atomically), then the exported half-precision model and the manifest."""
        state = {
            "step": self.step,
            "spent": self.spent,
            "trainee": self.trainee.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": torch.get_rng_state(),
        }
        torch.save(state, self.folder / (CHECKPOINT + ".new"))
        os.replace(self.folder / (CHECKPOINT + ".new"), self.folder / CHECKPOINT)
        build.save(self.trainee.network, self.processor(), self.folder / "model")
        facts = manifest(
            plan=asdict(self.plan), step=self.step, seconds=round(self.spent, 1), dtype="float32", start=self.start
        )
        (self.folder / "manifest.json").write_text(json.dumps(facts, indent=1) + "\n")

    def _set(self, trainee: Any) -> None:
        self.trainee = trainee.to(self.device)
        self.optimizers = optimizers(self.trainee, self.plan.rate)

    def _resume(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        self.step, self.spent = state["step"], state["spent"]
        if (other := self.grown(copy=False)) is not None:
            self._set(other)
        self.trainee.load_state_dict(state["trainee"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["rng"].cpu())

    def accuracy(self) -> float:
        """Share of answers that the teacher-forced model gets right on held-out questions."""
        right = total = 0
        with torch.no_grad():
            for batch in self.held_out():
                _, logits = self.trainee(to(batch, self.device), True)
                target = batch.labels[batch.labels != batches.IGNORED].to(self.device)
                answers = target != self.words.eos_token_id
                right += int((logits.argmax(-1) == target)[answers].sum())
                total += int(answers.sum())
        return right / total

    def update(self, batch: Any, joint: bool) -> dict[str, float]:
        """One optimizer step; the losses as numbers."""
        losses, _ = self.trainee(to(batch, self.device), joint)
        total = torch.stack([loss * self.weights.get(name, 1.0) for name, loss in losses.items()]).sum()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.plan.rate * self.plan.factor(self.step)
            optimizer.step()
        return {name: loss.item() for name, loss in losses.items()}

    def rows(self, every: int, save_seconds: float) -> Iterator[dict[str, Any]]:
        """Train to the end of the plan, yielding a log row every `every` steps."""
        saved = begun = time.monotonic()
        sums: dict[str, float] = {}
        summed = 0
        while self.step < self.plan.steps:
            stage = self.plan.stage(self.step)
            if (other := self.grown(copy=True)) is not None:
                self._set(other)
            for name, value in self.update(self.batch(), stage > 0).items():
                sums[name] = sums.get(name, 0.0) + value
            self.step += 1
            summed += 1
            now = time.monotonic()
            self.spent, begun = self.spent + now - begun, now
            if self.step % every == 0:
                row: dict[str, Any] = {"step": self.step, "stage": stage, "seconds": round(self.spent, 1)}
                row |= {name: round(value / summed, 4) for name, value in sums.items()}
                if stage >= self.measured_from and self.step % (8 * every) == 0:
                    row["dev"] = round(self.accuracy(), 4)
                sums, summed = {}, 0
                yield row
            if now - saved > save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()
