"""Watches a model of lmms-eval while it answers: errors end the run, and what was pruned is counted.

Several of lmms-eval's classes catch what `generate` raises, and go on with an empty answer that is scored as any other;
they change the settings of a request that the response cache looks up by; and nothing would tell if a pruner had no
effect. All of it is met on the instance, and undone by `close`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

import torch.distributed as dist

from ...apply import Handle
from ...models.undo import set_attribute
from .guard import check_shown
from .media import mend_media
from .seen import Prefill, Seen, note

NO_ANSWER = None  # the response cache, which takes blank ones back from its log, does not take this


class Stop(BaseException):
    """Carries an error past a model class that catches every Exception."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


def _raise(error: BaseException) -> NoReturn:
    raise error


class Watch:
    """Around one model of lmms-eval.

    Parameters
    ----------
    lm
        The instance.
    handle
        Of the pruner that is applied to its model, if one is.
    advance
        Told how many prompts this process has answered, after each call.
    fail
        Raises an error; lmms-eval's command line needs another kind.
    """

    def __init__(
        self,
        lm: Any,
        handle: Handle | None = None,
        *,
        advance: Callable[[int], None] | None = None,
        fail: Callable[[BaseException], NoReturn] = _raise,
    ):
        self.lm, self.handle, self.advance, self.fail = lm, handle, advance, fail
        self.seen = Seen()
        self.error: Exception | None = None
        self._stack = ExitStack()

    def install(self, *, frees: bool = True) -> Watch:
        """Wrap the instance's methods.

        Parameters
        ----------
        frees
            Whether lmms-eval's `clean` still frees the model, and undoes all this before.
        """
        lm, stack = self.lm, self._stack
        model = lm.model
        prefill = Prefill(model, stack)
        set_attribute(model, "generate", self._generate(model.generate, prefill), stack)
        for name in ("generate_until", "generate_until_multi_round"):
            set_attribute(lm, name, functools.partial(self._answer, getattr(lm, name)), stack)
        if self.handle is not None:
            set_attribute(lm, "loglikelihood", self._refuse, stack)
        if hasattr(lm, "load_video"):
            set_attribute(lm, "load_video", self._through(lm.load_video), stack)
        mend_media(lm, stack)
        set_attribute(lm, "clean", functools.partial(self._clean, lm.clean if frees else None), stack)
        return self

    def close(self) -> None:
        """Leave the instance as it was; the pruner stays."""
        self._stack.close()

    # What is wrapped.

    def _generate(self, original: Callable[..., Any], prefill: Prefill) -> Callable[..., Any]:
        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            prefill.armed = True
            output = self._through(original)(*args, **kwargs)
            prefill.read(self.seen)
            given = {**({"inputs": args[0]} if args else {}), **kwargs}
            self._through(note)(self.seen, self.lm.model, self.handle, given)
            if self.advance is not None:
                self.advance(self.seen.prompts)
            return output

        return generate

    def _through(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Let what `original` raises reach `_answer`."""

        @functools.wraps(original)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            except Exception as error:
                raise Stop(error) from error

        return run

    def _answer(self, original: Callable[..., Any], requests: Sequence[Any]) -> list[Any]:
        asked = [request for request in requests if not self._padding(request)]
        before = copy.deepcopy(self.seen)
        try:
            # Copies: classes write defaults into the settings, and the response cache stores by what they then are.
            answers = original([_copied(request) for request in asked]) if asked else []
            if len(answers) != len(asked):
                raise RuntimeError(
                    f"{type(self.lm).__name__} gave {len(answers)} answers to {len(asked)} requests: take another base"
                )
            if asked:
                check_shown(self.lm, self.handle, asked, self.seen.since(before))
        except Stop as stop:
            return self._failed(stop.error, len(requests))
        except Exception as error:
            return self._failed(error, len(requests))
        self.seen.empty += sum(not _text(one).strip() for one in answers)
        # Padding only gives every process the same number of requests; its answers are thrown away.
        left = iter(answers)
        return [NO_ANSWER if self._padding(request) else next(left) for request in requests]

    def _padding(self, request: Any) -> bool:
        sharded = str(getattr(getattr(self.lm, "accelerator", None), "distributed_type", "")).upper()
        if "FSDP" in sharded or "DEEPSPEED" in sharded:
            return False  # all processes have to call the model equally often
        return bool((request.metadata or {}).get("__padding_only__"))

    def _failed(self, error: Exception, requests: int) -> list[Any]:
        if _world() == 1:
            self.fail(error)
        # The other processes would wait for this one for ever: all raise together in `clean`, before any scoring.
        self.error = self.error or error
        return [NO_ANSWER] * requests

    def _refuse(self, requests: Sequence[Any]) -> NoReturn:
        self.fail(
            NotImplementedError(
                "this task compares the likelihood of given answers, but the logits of a pruned model have the length "
                "of the shortened prompt: use method=none, or a task that generates"
            )
        )

    def _clean(self, original: Callable[[], None] | None) -> None:
        seen, error = self.seen, self.error
        if _world() > 1:
            everyone: list[Any] = [None] * _world()
            told = None if error is None else f"{type(error).__name__}: {error}"
            dist.all_gather_object(everyone, (self.seen, told))
            seen = Seen()
            for other, _ in everyone:
                seen.add(other)
            crashed = [(rank, text) for rank, (_, text) in enumerate(everyone) if text is not None]
            if crashed and error is None:
                error = RuntimeError(f"process {crashed[0][0]} failed: {crashed[0][1]}")
        self.seen, self.error = seen, None
        if error is not None:
            self.fail(error)
        _report(seen)
        if original is not None:
            self.close()
            if self.handle is not None:
                self.handle.remove()
            self.handle = None  # it holds the model, which `clean` is to free
            original()


def _copied(request: Any) -> Any:
    new = copy.copy(request)
    new.arguments = tuple(copy.deepcopy(one) if isinstance(one, dict) else one for one in request.args)
    return new


def _text(answer: Any) -> str:
    answer = getattr(answer, "text", answer)
    return answer if isinstance(answer, str) else "".join(map(str, answer))


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _report(seen: Seen) -> None:
    from lmms_eval.models.model_utils.gen_metrics import log_metrics

    if seen.prompts:
        log_metrics(0.0, 0, 0.0, seen.metrics())
