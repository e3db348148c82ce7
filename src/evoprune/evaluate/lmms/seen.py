"""What a model was shown and how fast it read it, noted call by call of `generate`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...apply import Handle
from ...models.timing import Timer

PLACEHOLDERS = ("image_token_id", "video_token_id", "image_token_index", "video_token_index")


@dataclass
class Seen:
    """Sums over prompts.

    Attributes
    ----------
    prompts, pictured
        Prompts, and those of them with visual tokens.
    full, short
        Visual tokens in the prompts as they were given, and of those that enter the language model.
    meant
        Calls of whose visual tokens some are to go.
    layers
        Visual tokens that leave each layer of the language model.
    prefills, milliseconds
        First forwards, of a batch each, and their time: tower, projector and language model.
    empty
        Blank answers.
    """

    prompts: int = 0
    pictured: int = 0
    full: int = 0
    short: int = 0
    meant: int = 0
    layers: list[int] = field(default_factory=list)
    prefills: int = 0
    milliseconds: float = 0.0
    empty: int = 0

    def add(self, other: Seen, sign: int = 1) -> None:
        """Add what another process has seen."""
        for name in ("prompts", "pictured", "full", "short", "meant", "prefills", "milliseconds", "empty"):
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))
        self.leave([sign * count for count in other.layers])

    def since(self, before: Seen) -> Seen:
        """Return what was seen after `before`."""
        found = replace(self, layers=list(self.layers))
        found.add(before, sign=-1)
        return found

    def leave(self, counts: list[int]) -> None:
        """Add the visual tokens that left each layer."""
        if counts:
            self.layers = [a + b for a, b in zip(self.layers or [0] * len(counts), counts, strict=True)]

    @property
    def tokens(self) -> float | None:
        """Visual tokens a prompt in the language model; None without pictures."""
        return self.short / self.pictured if self.pictured else None

    @property
    def layer_tokens(self) -> tuple[float, ...]:
        """Visual tokens a prompt that leave each layer; empty where no pruner acts inside the language model."""
        return tuple(count / self.pictured for count in self.layers) if self.pictured else ()

    def metrics(self) -> dict[str, float]:
        """What lmms-eval reports beside its own figures."""
        found: dict[str, float] = {
            "prompts": self.prompts,
            "text_only_prompts": self.prompts - self.pictured,
            "empty_answers": self.empty,
        }
        if self.pictured:
            found["visual_tokens_full"] = self.full / self.pictured
            found["visual_tokens"] = self.short / self.pictured
        if self.layers and self.pictured:
            found["visual_tokens_last_layer"] = self.layers[-1] / self.pictured
        if self.prefills:
            found["prefill_milliseconds"] = self.milliseconds / self.prefills
        return found


def placeholders(model: Any) -> list[int]:
    """Return the tokens that stand for pictures and videos in the prompts of a model, none where it has no such."""
    known = [getattr(model.config, name, None) for name in PLACEHOLDERS]
    return [token for token in dict.fromkeys(known) if token is not None]


def _meant(handle: Handle) -> bool:
    """Whether the plan drops anything of the pictures of the last call; a share may round up to all of few tokens."""
    counts = [budget.count for run in handle.stats._state.all_runs for budget in run.budgets]
    if any(count.short < count.full for count in counts):
        return True
    decoder = handle._entry.decoder
    left = [] if decoder is None else [(decoder.leaves(count.short, 1), count.short) for count in counts]
    return any(min(layers, default=tokens) < tokens for layers, tokens in left)


def note(seen: Seen, model: Any, handle: Handle | None, arguments: dict[str, Any]) -> None:
    """Note a call of `generate` that has just ended.

    Raises
    ------
    RuntimeError
        There were pictures, and the pruner has not seen the call.
    """
    ids = arguments.get("input_ids", arguments.get("inputs"))
    if not isinstance(ids, Tensor):
        return
    known = placeholders(model)
    counts = torch.isin(ids, torch.tensor(known, device=ids.device, dtype=ids.dtype)).sum(dim=1).tolist()
    full = sum(counts)
    seen.prompts += len(counts)
    seen.pictured += sum(count > 0 for count in counts)
    seen.full += full
    if handle is None:
        seen.short += full
        return
    stats = handle.stats
    if full and not stats.visual_tokens:
        raise RuntimeError(
            f"a prompt with {full} visual tokens was answered unpruned: this model class calls the model past the "
            "pruner, choose another base, for example base=auto"
        )
    seen.short += sum(stats.visual_tokens) if full else 0
    seen.meant += bool(full) and _meant(handle)
    seen.leave([sum(counts) for counts in zip(*stats.decoder_tokens, strict=True)])


class Prefill:
    """Times the first forward of each `generate`, by CUDA events on a GPU."""

    def __init__(self, model: Any, stack: ExitStack):
        self.device = model.device
        self.timer, self.running, self.armed = Timer(), ExitStack(), False
        for handle in (
            model.register_forward_pre_hook(self.begin),
            model.register_forward_hook(self.end),
        ):
            stack.callback(handle.remove)

    def begin(self, module: Any, args: Any) -> None:
        if self.armed:
            self.running.enter_context(self.timer.measure(self.device))

    def end(self, module: Any, args: Any, output: Any) -> None:
        if self.armed:
            self.armed = False
            self.running.close()

    def read(self, seen: Seen) -> None:
        """Add the time of the last prefill, if there was one."""
        if not self.armed and self.timer.milliseconds is not None:
            seen.prefills += 1
            seen.milliseconds += self.timer.milliseconds
        self.armed = False
