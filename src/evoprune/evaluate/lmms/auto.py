"""A model class for lmms-eval of our own, ``base=auto``: every image-text-to-text model of transformers, in batches.

Prompts come from the processor's chat template and videos are sampled by `evoprune.video`, so its figures are not
those of lmms-eval's own class for a model, where there is one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from tqdm import tqdm

from .generation import settings, until
from .prompts import Prompt, inputs, prompt


class AutoModel(lmms):
    """A model of transformers, one copy a process.

    Parameters
    ----------
    pretrained
        Folder or hub id.
    device
        By default the process's own GPU, the CPU where there is none.
    device_map
        As in ``from_pretrained``, for a model that one GPU does not hold.
    batch_size
        Questions a call, padded on the left.
    max_frames_num
        Frames of a video, spread evenly.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        *,
        revision: str = "main",
        device: str | None = None,
        device_map: str | None = None,
        dtype: str = "auto",
        attn_implementation: str | None = None,
        batch_size: int = 1,
        max_frames_num: int = 32,
        use_cache: bool = True,
        trust_remote_code: bool = False,
    ):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        super().__init__()
        self.accelerator = Accelerator()
        own = f"cuda:{self.accelerator.local_process_index}" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device or own)
        place = {"device_map": device_map} if device_map not in (None, "", "cpu") else {}
        common = {"revision": revision, "trust_remote_code": trust_remote_code}
        self._model = AutoModelForImageTextToText.from_pretrained(
            pretrained, dtype=dtype, attn_implementation=attn_implementation, **common, **place
        ).eval()
        if not place:
            self._model.to(self.device)
        self.processor = AutoProcessor.from_pretrained(pretrained, **common)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        self.pretrained, self.use_cache = pretrained, use_cache
        self.batch_size_per_gpu, self.max_frames_num = int(batch_size), int(max_frames_num)
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes

    @property
    def model(self) -> Any:
        """The model of transformers."""
        return self._model

    @property
    def config(self) -> Any:
        """Its config."""
        return self._model.config

    @property
    def batch_size(self) -> int:
        """Questions a call."""
        return self.batch_size_per_gpu

    def loglikelihood(self, requests: Any) -> NoReturn:
        raise NotImplementedError(
            "base=auto generates answers and compares no likelihoods: choose a task that generates"
        )

    def generate_until_multi_round(self, requests: Any) -> NoReturn:
        raise NotImplementedError("base=auto answers one turn: choose another base for tasks of several rounds")

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer requests, batches of those with the same settings and kinds of pictures, in the given order."""
        found: list[Any] = [None] * len(requests)
        seconds, made = 0.0, 0
        bar = tqdm(total=len(requests), disable=self.rank != 0, desc="Answering")
        for numbers in self._batches(requests):
            start = time.perf_counter()
            answers = self._batch([requests[number] for number in numbers])
            seconds += time.perf_counter() - start
            for number, answer in zip(numbers, answers, strict=True):
                found[number] = answer
                made += answer.token_counts.output_tokens or 0
            bar.update(len(numbers))
        bar.close()
        log_metrics(seconds, made, made / seconds if seconds else 0.0, {"rank": self.rank})
        return found

    def _batches(self, requests: Sequence[Any]) -> Iterator[list[int]]:
        alike: dict[Any, list[int]] = {}
        for number, request in enumerate(requests):
            task, split = request.args[-2:]
            alike.setdefault((json.dumps(request.args[2], sort_keys=True, default=str), task, split), []).append(number)
        for numbers in alike.values():
            for start in range(0, len(numbers), self.batch_size):
                yield numbers[start : start + self.batch_size]

    def _batch(self, requests: Sequence[Any]) -> list[GenerationResult]:
        prompts = [self._prompt(request) for request in requests]
        answers: list[Any] = [None] * len(prompts)
        kinds: dict[Any, list[int]] = {}
        for number, one in enumerate(prompts):  # processors disagree about rows without pictures among others
            kinds.setdefault((bool(one.images), bool(one.videos)), []).append(number)
        for numbers in kinds.values():
            texts = self._generate([prompts[number] for number in numbers], requests[0].args[2])
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = text
        return answers

    def _prompt(self, request: Any) -> Prompt:
        _, messages, _, number, task, split = request.args
        return prompt(self.processor, messages(self.task_dict[task][split][number]), self.max_frames_num)

    def _generate(self, prompts: Sequence[Prompt], asked: Mapping[str, Any]) -> list[GenerationResult]:
        read = inputs(self.processor, prompts).to(self.model.device)
        cast = {k: v.to(self.model.dtype) if torch.is_floating_point(v) else v for k, v in read.items()}
        pad = self.tokenizer.pad_token_id
        with torch.no_grad():
            output = self.model.generate(**cast, **settings(asked), use_cache=self.use_cache, pad_token_id=pad)
        new = output[:, read["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        lengths = [int((row != pad).sum()) for row in new]
        counted = zip(texts, lengths, strict=True)
        return [GenerationResult(until(text, asked.get("until")), TokenCounts(output_tokens=n)) for text, n in counted]
