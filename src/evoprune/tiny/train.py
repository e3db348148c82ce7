"""Train the embedded model: ``python -m evoprune.tiny.train --out runs/tiny``; run it again to resume.

Three stages: a shallow tower learns dense labels (digit, colour, count and place a patch) and what the scene holds (CLS
token); the language model joins; then every tower layer is followed by a new one that begins as the identity, and
everything trains on. Visual tokens are never dropped, merged or masked here: that keeps the model a fair testbed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bench import manifest
from . import batches, build, questions
from .batches import Batch, Prompts
from .muon import Muon
from .plan import Plan
from .trainee import Trainee, grow

WEIGHTS = {"digit": 2.0, "answer": 2.0}  # of the losses; 1 for the others
BINDING = ("digit", "colour")
CHECKPOINT = "checkpoint.pt"


def optimizers(trainee: Trainee, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside transformer layers, AdamW for everything else."""
    inside: list[nn.Parameter] = []
    outside: list[nn.Parameter] = []
    for name, parameter in trainee.named_parameters():
        (inside if ".layers." in name and parameter.ndim == 2 else outside).append(parameter)
    return [
        Muon(inside, lr=rate, weight_decay=0.02),
        torch.optim.AdamW(outside, lr=rate, weight_decay=0.01, betas=(0.9, 0.98)),
    ]


def to(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`."""
    moved = {k: v.to(device) for k, v in vars(batch).items() if isinstance(v, Tensor)}
    return Batch(dense={k: v.to(device) for k, v in batch.dense.items()}, **moved)


def accuracy(trainee: Trainee, prompts: Prompts, device: torch.device, scenes: int = 240, split: Any = "dev") -> float:
    """Share of answers that the teacher-forced model gets right on held-out scenes."""
    right = total = 0
    with torch.no_grad():
        for first in range(0, scenes, 12):
            batch = to(batches.batch(prompts, split, 5, first, 12), device)
            _, logits = trainee(batch, True)
            target = batch.labels[batch.labels != batches.IGNORED]
            answers = target != prompts.words.eos_token_id
            right += int((logits.argmax(-1) == target)[answers].sum())
            total += int(answers.sum())
    return right / total


class Run:
    """A resumable training run in one folder: checkpoint, log, manifest, exported model."""

    def __init__(self, folder: Path, plan: Plan, device: torch.device) -> None:
        self.folder, self.plan, self.device = folder, plan, device
        folder.mkdir(parents=True, exist_ok=True)
        self.words = build.tokenizer(batches.corpus())
        self.prompts = Prompts(self.words)
        self.step = 0
        self.spent = 0.0
        torch.manual_seed(plan.seed)
        self._set(Trainee(build.model(self.words, depth=build.DEPTH // 2), self.words))
        if (folder / CHECKPOINT).exists():
            self._resume()

    def _set(self, trainee: Trainee) -> None:
        self.trainee = trainee.to(self.device)
        self.optimizers = optimizers(self.trainee, self.plan.rate)

    def _resume(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        self.step, self.spent = state["step"], state["spent"]
        if self.plan.stage(self.step - 1) == 2:
            self._set(Trainee(build.model(self.words, depth=build.DEPTH), self.words))
        self.trainee.load_state_dict(state["trainee"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["rng"].cpu())

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
        build.save(self.trainee.network, build.processor(self.words), self.folder / "model")
        facts = manifest(plan=asdict(self.plan), step=self.step, seconds=round(self.spent, 1), dtype="float32")
        (self.folder / "manifest.json").write_text(json.dumps(facts, indent=1) + "\n")

    def update(self, batch: Batch, joint: bool) -> dict[str, float]:
        """One optimizer step; the losses as numbers."""
        losses, _ = self.trainee(to(batch, self.device), joint)
        total = torch.stack([loss * WEIGHTS.get(name, 1.0) for name, loss in losses.items()]).sum()
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
        while self.step < self.plan.steps:
            stage = self.plan.stage(self.step)
            if stage == 2 and len(self.trainee.network.model.vision_tower.encoder.layers) < build.DEPTH:
                self._set(grow(self.trainee, self.words))
            size = self.plan.dense_batch if stage == 0 else self.plan.batch
            each = 1 if stage == 0 else 16
            first, difficulty = self.plan.first_scene(self.step), self.plan.difficulty(self.step)
            kinds = BINDING if self.plan.binding(self.step) else questions.KINDS
            batch = batches.batch(self.prompts, "train", 1, first, size, each=each, kinds=kinds, difficulty=difficulty)
            for name, value in self.update(batch, stage > 0).items():
                sums[name] = sums.get(name, 0.0) + value
            self.step += 1
            now = time.monotonic()
            self.spent, begun = self.spent + now - begun, now
            if self.step % every == 0:
                row: dict[str, Any] = {"step": self.step, "stage": stage, "seconds": round(self.spent, 1)}
                row |= {name: round(value / every, 4) for name, value in sums.items()}
                if stage and self.step % (8 * every) == 0:
                    row["dev"] = round(accuracy(self.trainee, self.prompts, self.device), 4)
                sums = {}
                yield row
            if now - saved > save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()


def main() -> None:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--every", type=int, default=50, help="steps between log rows")
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    plan = Plan(**{name: getattr(options, name) for name in asdict(Plan())})
    run = Run(options.out, plan, torch.device(options.device))
    with (options.out / "log.jsonl").open("a") as log:
        log.write(json.dumps({"plan": asdict(plan), "step": run.step}) + "\n")  # a resumed run may change its plan
        for row in run.rows(options.every, save_seconds=300):
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, flush=True)


if __name__ == "__main__":
    main()
