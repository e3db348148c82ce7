"""Shared tower features: what the vision tower makes of a picture is computed once and given to all who ask again.

Two facts are used. A scene has several questions, each of which comes with the same picture; and all methods that act
behind the tower see what the unpruned one makes of it. The memo works from outside: while `TowerMemo.over` is open it
wraps the `forward` of the tower's instance, behind whatever `apply` has put there, and looks pictures up by their
pixels. What pruners noted beside the output (attention received, keys, which units merged) is kept with it.

Pictures are encoded in other batches than without a memo, so that features may differ by what batching rounds.
"""

from __future__ import annotations

import functools
import inspect
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ...apply import Handle
from ...models import Family, find, unwrap
from ...models.forms import Batched
from ...models.recording import restore
from ...models.state import TowerState
from ...models.trees import mapped, tensors
from ...models.undo import set_attribute
from .memo_calls import Call, Kind, digests, encode, kind_of, serves

LIMIT = 2 * 1024**3  # bytes

Key = tuple[Kind, bytes]
Rows = tuple[Tensor, ...]  # one picture's share of each tensor of an output and its notes


class TowerMemo:
    """What one model's tower made of each picture, the least recently used dropped first.

    What was encoded under a pruner inside the tower, or from a smaller picture, is kept until `over` closes; anything
    else for as long as the memo, so that all methods behind the tower share it.

    Parameters
    ----------
    limit
        Bytes that are kept at most.

    Attributes
    ----------
    encoded, reused
        Pictures that went through the tower, and that did not have to.
    size
        Bytes kept just now.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self.encoded = self.reused = self.size = 0
        self._kept: OrderedDict[Key, Rows] = OrderedDict()
        self._outlines: dict[Kind, Any] = {}
        self._tower: weakref.ref[Any] | None = None
        self._weights: list[tuple[int, int]] = []
        self._sum: int | None = None  # of the weights, None until an `over` has looked
        self._looked = False

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self, chosen: Callable[[Kind], bool] = lambda _: True) -> None:
        """Forget all pictures, or those whose kind (`memo_calls.kind_of`) is `chosen`."""
        for key in [key for key in self._kept if chosen(key[0])]:
            self.size -= _bytes(self._kept.pop(key))
        self._outlines = {kind: one for kind, one in self._outlines.items() if not chosen(kind)}

    @contextmanager
    def over(self, model: Any, handle: Handle | None = None) -> Iterator[TowerMemo]:
        """Let `model` share its tower's features until the context closes, which leaves nothing on it.

        Open it after `apply` and close it before the handle is removed. Hidden states that the model does not read are
        left out of what its tower returns, and hooks inside it see only what is encoded. Packed towers, towers that get
        masks, encoding in chunks, and calls with gradients or for all hidden states run as without.

        Parameters
        ----------
        handle
            What `apply` returned, None for a model without pruners.
        """
        entry = None if handle is None else handle._entry
        family = find(unwrap(model)) if entry is None else entry.family
        state = None if entry is None else entry.state
        if self._tower is None or self._tower() is not family.tower:  # another one may have the same addresses
            self.clear()
            self._tower = weakref.ref(family.tower)
        self._looked = False
        with ExitStack() as stack:
            if isinstance(family.form, Batched) and (entry is None or entry.tower.batch is None):
                wrapped = self._wrap(family.tower.forward, family, state)
                set_attribute(family.tower, "forward", wrapped, stack)
            stack.callback(self.clear, lambda kind: kind[0] is not None)
            yield self

    def _wrap(self, original: Call, family: Family, state: TowerState | None) -> Call:
        names = [name for name in inspect.signature(original).parameters if name != "kwargs"]
        weights = [*family.tower.parameters(), *family.tower.buffers()]

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            rest = {**dict(zip(names, args, strict=False)), **kwargs}
            pixels = rest.pop("pixel_values", None)
            if not serves(family, state, pixels, rest):
                return original(*args, **kwargs)
            self._check(weights)
            return self._run(original, pixels, rest, family, state)

        return forward

    def _check(self, weights: list[Tensor]) -> None:
        """Forget everything where the weights have changed: moved, in place, or since the last `over` in their bytes.

        Changes through ``.data`` and of inference tensors, which count no versions, are noticed by the next `over`.
        """
        now = [(one.data_ptr(), 0 if one.is_inference() else one._version) for one in weights]
        if self._looked and now == self._weights:
            return
        found = checksum(weights)
        if now != self._weights or found != self._sum:
            self.clear()
        self._weights, self._sum, self._looked = now, found, True

    def _run(self, original: Call, pixels: Tensor, rest: Any, family: Family, state: TowerState | None) -> Any:
        kind = kind_of(pixels, rest, family, state)
        keys = [(kind, one) for one in digests(pixels)]
        first: dict[Key, int] = {}
        for i, key in enumerate(keys):  # in one call too a picture may come twice
            first.setdefault(key, i)
        found = {key: self._kept[key] for key in first if key in self._kept}
        missing = [i for key, i in first.items() if key not in found]
        if missing:
            made = encode(original, pixels[missing], rest, family, state, missing)
            self._outlines[kind] = mapped(made, lambda one: one.new_empty(0))
            for place, i in enumerate(missing):
                found[keys[i]] = tuple(one[place].clone() for one in tensors(made))
        for key, rows in found.items():
            self._keep(key, rows)
        self.encoded += len(missing)
        self.reused += len(keys) - len(missing)
        whole = iter([torch.stack(rows) for rows in zip(*(found[key] for key in keys), strict=True)])
        output, noted = mapped(self._outlines[kind], lambda _: next(whole))
        if state is not None:
            restore(state.run, noted)
        return output

    def _keep(self, key: Key, rows: Rows) -> None:
        if key not in self._kept:
            self._kept[key] = rows
            self.size += _bytes(rows)
        self._kept.move_to_end(key)
        while self.size > self.limit:
            self.size -= _bytes(self._kept.popitem(last=False)[1])


def checksum(weights: Iterable[Tensor]) -> int:
    """Return the CRC-32 of all bytes of the tensors, in order."""
    found = 0
    for one in weights:
        found = zlib.crc32(one.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().data, found)
    return found


def _bytes(rows: Rows) -> int:
    return sum(one.numel() * one.element_size() for one in rows)
