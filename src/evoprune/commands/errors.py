"""The one kind of error that the command line tells in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake of the user: the command line prints the message and exits with code 2, without a traceback."""


@contextmanager
def refused(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the library's refusals of these kinds into a `UserError` with the same sentence."""
    try:
        yield
    except kinds as error:
        raise UserError(sentence(error)) from error


def sentence(error: BaseException) -> str:
    """The message of `error` on one line, without the quotes that KeyError puts around its own."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split()) or type(error).__name__


def first_line(error: BaseException, limit: int = 240) -> str:
    """The first line of somebody else's error message, shortened, to be quoted inside a sentence."""
    lines = str(error).strip().splitlines()
    text = " ".join(lines[0].split()) if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
