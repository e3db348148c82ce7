"""Real architectures by name: which published model they are, how it is built, and what it is shown by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import unknown

Values = Mapping[str, Any]

# What makes a language model of no real size; its hidden size, and so the projector's output, stays.
NO_LANGUAGE = {"num_hidden_layers": 0, "intermediate_size": 8, "vocab_size": 8, "layer_types": None}


@dataclass(frozen=True)
class Preset:
    """A published architecture that `build.build` makes with random weights.

    Attributes
    ----------
    name
        On the command line.
    citation
        Hub id of the model whose config.json the numbers are taken from.
    kind
        Prefix of the classes in transformers: ``"Llava"`` for `LlavaConfig` and `LlavaForConditionalGeneration`.
    vision, text, more
        What the config classes are given; what is left out has their defaults.
    image_processor, video_processor
        Name of the class in transformers and what it is given; None where the family takes no videos.
    parameters
        Weights of the published model, tied ones once.
    tokens
        Visual tokens that the language model natively sees of one picture of size `picture`, or of one frame.
    picture
        Height and width of the pictures and frames that are shown.
    frames
        Frames of the video shown by default, None where one picture is.
    prompt
        Text tokens around the pictures.
    note
        What else a reader of figures has to know.
    """

    name: str
    citation: str
    kind: str
    vision: Values
    text: Values
    image_processor: tuple[str, Values]
    parameters: int
    tokens: int
    picture: tuple[int, int]
    more: Values = field(default_factory=dict)
    video_processor: tuple[str, Values] | None = None
    frames: int | None = None
    prompt: int = 40
    note: str = ""

    def config(self, stages: str = "all") -> Any:
        """Return the config of transformers; with ``stages="encoder"`` the language model has no real size."""
        import transformers

        text = dict(self.text)
        if stages == "encoder":
            text |= NO_LANGUAGE
        # Copies, as the config classes change what they are given.
        parts = {"vision_config": dict(self.vision), "text_config": {k: _copied(v) for k, v in text.items()}}
        return getattr(transformers, f"{self.kind}Config")(**parts, **{k: _copied(v) for k, v in self.more.items()})

    def model_class(self) -> Any:
        """Return the class of transformers with `generate`."""
        import transformers

        return getattr(transformers, f"{self.kind}ForConditionalGeneration")

    def to_dict(self) -> dict[str, Any]:
        """Facts for a result file: what was built, and from where its numbers are."""
        return {
            "name": self.name,
            "citation": self.citation,
            "vision": dict(self.vision),
            "text": dict(self.text),
            "more": dict(self.more),
            "parameters": self.parameters,
            "picture": list(self.picture),
            "prompt": self.prompt,
            "note": self.note,
        }


def _copied(value: Any) -> Any:
    return {**value} if isinstance(value, Mapping) else list(value) if isinstance(value, list) else value


def get(name: str) -> Preset:
    """Return a preset by its name; ValueError with the nearest name where there is none."""
    from .published import PRESETS

    found = PRESETS.get(name)
    if found is None:
        raise ValueError(unknown("preset", name, PRESETS))
    return found
