"""The video model's training run: what differs from the image model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..build import tokenizer
from ..run import Run
from . import batches, build, labels
from .clips import FRAMES, clip
from .prompts import ClipPrompts, corpus
from .trainee import VideoTrainee


class VideoRun(Run):
    """A resumable run that starts from the shipped image model."""

    weights: ClassVar[dict[str, float]] = {"digit": 2.0, "answer": 3.0, "way": 3.0}
    measured_from = 2
    start = "the shipped image model (build.warm_start)"
    prompts: ClipPrompts
    pool: tuple[Tensor, np.ndarray] | None = None

    def prompter(self) -> ClipPrompts:
        """What writes prompts, with its tokenizer."""
        return ClipPrompts(tokenizer(corpus(), ("image", "video")))

    def processor(self) -> Any:
        """The processor that is exported with the model."""
        return build.processor(self.words)

    def begin(self) -> VideoTrainee:
        """The trainee of step 0."""
        network = build.model(self.words, build.DEPTH, build.BLOCKS)
        build.warm_start(network, self.words)
        return VideoTrainee(network, self.words)

    def grown(self, copy: bool) -> None:
        """Nothing: the depth stays as it is."""

    def batch(self) -> batches.VideoBatch | batches.WatchedBatch:
        """What this step reads."""
        plan, first = self.plan, self.plan.first_clip(self.step)
        if plan.stage(self.step) == 1:
            return self._watched()
        if plan.stage(self.step) == 0:
            return batches.dense_batch("train", 1, first, plan.dense_clips)
        level, difficulty = plan.level(self.step), plan.difficulty(self.step)
        return batches.batch(self.prompts, "train", 1, first, plan.batch, level=level, difficulty=difficulty)

    def _watched(self) -> batches.WatchedBatch:
        """Clips out of the pool, which is read anew after a cut: tower and projector stay as they are in this stage."""
        if self.pool is None:
            read, told = [], []
            for first in range(0, self.plan.pool, 8):
                clips = [clip("train", 2, number) for number in range(first, min(first + 8, self.plan.pool))]
                pixels = batches.frame_tensor(clips).unflatten(0, (len(clips), FRAMES))
                read.append(self.trainee.read(pixels.to(self.device)))
                told += [labels.token_labels(c, True) for c in clips]
            self.pool = torch.cat(read), np.stack(told)
        chosen = np.random.default_rng([self.step, 9]).permutation(self.plan.pool)[: self.plan.watched]
        embeds, tokens = self.pool
        return batches.WatchedBatch(embeds[chosen], labels.seen_labels(tokens[chosen].reshape(-1, tokens.shape[-1])))

    def held_out(self) -> Iterator[batches.VideoBatch]:
        """Batches of dev questions of the measured kinds."""
        for first in range(0, 120, 12):
            yield batches.batch(self.prompts, "dev", 5, first, 12, fixed=True)
