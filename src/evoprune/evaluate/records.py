"""What a run over a task leaves: questions, answers with their scores, and what the model was shown of each picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Question:
    """One sample of a task.

    Attributes
    ----------
    id
        Names the question within its task, the same in every run and harness.
    prompt, target
        What is asked, and the answer looked for (several in one string where the task has several).
    kind
        Type of the question, "" where the task has none.
    group
        What it shares with others (the picture, the video): resampled together. Its own id where "".
    """

    id: str
    prompt: str
    target: str
    kind: str = ""
    group: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What the model said to the question `id`, and how right that is, 0 to 1."""

    id: str
    text: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object; whole scores as integers, which keeps long files short."""
        return {"id": self.id, "text": self.text, "score": int(self.score) if self.score in (0, 1) else self.score}


@dataclass(frozen=True)
class Outcome:
    """One cell's answers, in the order of its questions.

    Attributes
    ----------
    answers
        One a question.
    tokens
        Visual tokens that enter the language model, the mean over prompts; None where there was no picture.
    layers
        Visual tokens that leave each layer of the language model; empty where no pruner acts inside it.
    metrics
        What the harness itself reports.
    seconds
        Wall time of the cell. No measure of speed: other things may have run beside it.
    """

    answers: tuple[Answer, ...]
    tokens: float | None = None
    layers: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def empty(self) -> int:
        """How many answers are blank."""
        return sum(not answer.text.strip() for answer in self.answers)
