"""A wrong request and what its refusal has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .serving import text

QUESTION = text("What digit is red?")
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Wrong:
    """A request and what its refusal has to say.

    Attributes
    ----------
    name
        What is wrong with it.
    body
        JSON, or bytes as they are.
    says
        Words of the answer, where they are this project's own.
    """

    name: str
    body: Any
    path: str = CHAT
    says: str = ""
    kind: str = "application/json"
