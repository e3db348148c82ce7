"""The stages of training, in steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How long each stage runs (steps), with how many scenes a step, and how fast it learns.

    For `binding_steps` steps from step `binding_start` on, which is where the language model joins, only digits of
    colours and colours of digits are asked: asked everything at once, it had not learned in 1,400 steps to look at the
    patches that a question is about (the log of the shipped run up to step 5400).
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
