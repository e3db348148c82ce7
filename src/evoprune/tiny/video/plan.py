"""The stages of the video model's training, in steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoPlan:
    """How long each stage runs (steps), with how many clips a step, and how fast it learns.

    First the tower alone learns dense labels on `dense_clips` x 3 single frames a step. Then the first decoder layers
    alone watch clips: `watched` a step out of `pool` that the tower, left as it is, has read once. Asked from the
    start, they had not begun in 370 steps to relate a digit to where it was before. Then everything trains: for
    `binding_steps` the model is asked digits of colours and colours of digits alone, for `aid_steps` more everything
    but the measured kinds, then all.
    """

    dense_steps: int = 300
    watch_steps: int = 800
    joint_steps: int = 1900
    binding_steps: int = 30
    aid_steps: int = 120
    dense_clips: int = 8
    pool: int = 1600
    watched: int = 16
    batch: int = 8
    rate: float = 3e-3
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.dense_steps + self.watch_steps + self.joint_steps

    @property
    def asked_from(self) -> int:
        """The first step that asks questions."""
        return self.dense_steps + self.watch_steps

    def stage(self, step: int) -> int:
        """0 dense, 1 watching, 2 joint."""
        return int(step >= self.dense_steps) + int(step >= self.asked_from)

    def first_clip(self, step: int) -> int:
        """Number of clips read before `step`, without those that are watched."""
        return self.dense_clips * min(step, self.dense_steps) + self.batch * max(0, step - self.asked_from)

    def level(self, step: int) -> int:
        """What is asked: 0 binding, 1 all but the measured kinds, 2 everything."""
        since = step - self.asked_from
        return int(since >= self.binding_steps) + int(since >= self.binding_steps + self.aid_steps)

    def difficulty(self, step: int) -> float:
        """Of the clips that are asked about: 0 until everything is asked, then rising to 1 over as many steps again."""
        early = self.binding_steps + self.aid_steps
        return min(1.0, max(0.0, (step - self.asked_from - early) / max(1, early)))

    def factor(self, step: int) -> float:
        """Learning-rate factor: a warm-up at each stage's start, a linear decay over the last 40 % of all steps."""
        start = (0, self.dense_steps, self.asked_from)[self.stage(step)]
        return min(1.0, (step - start + 1) / 60, (self.steps - step) / (0.4 * self.steps))
