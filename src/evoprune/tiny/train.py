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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..bench import manifest
from . import batches, build, questions
from .batches import Batch, Prompts
from .muon import Muon
from .scenes import COLOUR_NAMES, MOST_GLYPHS

DENSE = {"digit": 10, "colour": len(COLOUR_NAMES) + 1, "count": MOST_GLYPHS, "place": 3}
WEIGHTS = {"digit": 2.0, "answer": 2.0}  # of the losses; 1 for the others
BINDING = ("digit", "colour")
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Plan:
    """How long each stage runs (steps), with how many scenes a step, and how fast it learns.

    For `binding_steps` steps from step `binding_start` on, which is where the language model joins, only digits of
    colours and colours of digits are asked: asked everything at once, it takes several times longer to learn to look
    at the patches that a question is about.
    """

    dense_steps: int = 4000
    joint_steps: int = 900
    deep_steps: int = 2000
    binding_start: int = 4000
    binding_steps: int = 250
    dense_batch: int = 8
    batch: int = 8
    rate: float = 4e-3
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.dense_steps + self.joint_steps + self.deep_steps

    def stage(self, step: int) -> int:
        """0 dense only, 1 joint with the shallow tower, 2 joint with the deep tower."""
        return int(step >= self.dense_steps) + int(step >= self.dense_steps + self.joint_steps)

    def first_scene(self, step: int) -> int:
        """Number of scenes read before `step`."""
        return self.dense_batch * min(step, self.dense_steps) + self.batch * max(0, step - self.dense_steps)

    def binding(self, step: int) -> bool:
        """Whether only digits of colours and colours of digits are asked."""
        return 0 <= step - self.binding_start < self.binding_steps

    def difficulty(self, step: int) -> float | None:
        """Of the scenes: 0 for 30 % of the dense stage, then rising to 1; 1 while binding; else None, as measured."""
        if self.binding(step):
            return 1.0
        share = step / max(1, self.dense_steps)
        return None if share >= 1 else min(1.0, max(0.0, (share - 0.3) / 0.5))

    def factor(self, step: int) -> float:
        """Learning-rate factor: a warm-up at each stage's start, a linear decay over the last 40 % of all steps."""
        start = (0, self.dense_steps, self.dense_steps + self.joint_steps)[self.stage(step)]
        return min(1.0, (step - start + 1) / 60, (self.steps - step) / (0.4 * self.steps))


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

        Questions name digits and colours, so attention from a word to its patches is soon found; without this the
        language model takes many times longer to look at the picture at all.
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
