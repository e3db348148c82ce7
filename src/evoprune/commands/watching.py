"""Progress inside the model: pictures and frames as they enter the encoder, tokens of the answer as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import Progress

from ..models import find


class Ticks:
    """A streamer for `generate` that only counts.

    transformers hands the prompt over first, then each token.
    """

    def __init__(self, tick: Callable[[], None]):
        self._tick, self._begun = tick, False

    def put(self, value: Any) -> None:
        """Count a token."""
        if self._begun:
            self._tick()
        self._begun = True

    def end(self) -> None:
        """Nothing is left to print."""


@contextmanager
def answering(bars: Progress, model: Any, items: int, max_new_tokens: int) -> Iterator[Callable[[], Ticks | None]]:
    """Show how many of `items` pictures and frames have entered the encoder, then how many tokens the answer has.

    Yields what makes the streamer of one `generate`: None where nobody watches, so that nothing is hooked and nothing
    is slower then.
    """
    if bars.disable:
        yield lambda: None
        return
    encoding = bars.add_task("Encoding", total=items)
    writing = bars.add_task("Answering", total=max_new_tokens)

    def entered(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        bars.advance(encoding, hidden.shape[0] if hidden is not None and hidden.ndim == 3 else items)

    def streamer() -> Ticks:
        bars.reset(encoding, total=items)
        bars.reset(writing, total=max_new_tokens)
        return Ticks(lambda: bars.advance(writing))

    # The first block is called once for each part of a batch, whoever splits it.
    hook = find(model).blocks[0].register_forward_pre_hook(entered, with_kwargs=True)
    try:
        yield streamer
    finally:
        hook.remove()
