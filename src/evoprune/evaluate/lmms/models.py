"""lmms-eval's own model classes with a pruner applied: what ``--model evoprune`` builds.

The object that lmms-eval runs is the stock one that ``base`` names, so that prompts, preprocessing, video decoding,
batching and scoring stay the harness's; ``method=none`` is its official baseline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn

import torch
from lmms_eval.api.model import lmms
from lmms_eval.models import get_model, list_available_models
from lmms_eval.utils import simple_parse_args_string

with suppress(ImportError):
    import av  # noqa: F401  # before decord, which model classes import: its FFmpeg would hide PyAV's codecs

from ...apply import apply
from ...tiny.defaults import EMBEDDED, defaults, folder
from .arguments import parameters_of, parse
from .cache import check_cache
from .exit import fail, failing_loudly
from .setup import STOCK
from .watch import Watch

BASE = "llava_hf"
ONE_AT_A_TIME = ("llava_hf", "internvl_hf")  # classes that take no batch
FRAMES = ("max_frames_num", "max_num_frames", "num_frames")  # what classes call the number of a video's frames


def base_class(base: str, simple: bool = False) -> type:
    """Return the model class of a ``base``; ValueError with the nearest name for an unknown one."""
    if base == "auto":
        from .auto import AutoModel

        return AutoModel
    names = list_available_models(include_aliases=True)
    if base not in names or base == "evoprune":
        near = get_close_matches(base, ["auto", *(name for name in names if name != "evoprune")], n=1, cutoff=0.5)
        raise ValueError(
            f"unknown base {base!r}: {f'did you mean {near[0]!r}? ' if near else ''}choose auto, "
            f"{', '.join(dict.fromkeys(STOCK.values()))} or another class of lmms-eval for models of transformers"
        )
    return get_model(base, simple)


def check_batch(base: str, batch: int | str) -> None:
    """Refuse a batch for a class that takes none; ValueError with the way out."""
    if base in ONE_AT_A_TIME and str(batch) != "1":
        raise ValueError(
            f"base={base} answers one question at a time, not {batch}: leave the batch out, or use base=auto"
        )


def build(base: str, arguments: Mapping[str, Any], simple: bool = False) -> Any:
    """Return the stock model of lmms-eval, without a pruner.

    Parameters
    ----------
    base
        Name of a model class of lmms-eval, or ``"auto"``.
    arguments
        Of that class; `pretrained` may name an embedded model.

    Raises
    ------
    ValueError
        An unknown base, one without a model in this process, or a batch for a class that takes none.
    """
    kind = base_class(base, simple)
    check_batch(base, arguments.get("batch_size", 1))
    takes, name = parameters_of(kind), arguments.get("pretrained")
    arguments = dict(arguments)
    if name in EMBEDDED:
        arguments["pretrained"] = str(folder(name))
        if "dtype" in takes:
            arguments.setdefault("dtype", "float32")  # stored in float16 to be small, meant to run in float32
        for frames in (one for one in FRAMES if one in takes):
            arguments.setdefault(frames, 8)  # what its clips have
    lm = kind(**_placed(takes, arguments))
    if not isinstance(getattr(lm, "model", None), torch.nn.Module):
        raise ValueError(f"base={base} holds no model of transformers that could be pruned: choose another base")
    if name == "tiny":
        _by_pil(lm, arguments["pretrained"])
    return lm


def _placed(takes: Mapping[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Say where the model goes, where classes assume a GPU or leave it to a value that transformers 5 refuses."""
    device = arguments.get("device")
    if "device" in takes and device is None and not torch.cuda.is_available():
        device = arguments["device"] = "cpu"
    if "device_map" in takes and "device_map" not in arguments:
        alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
        if device is not None and torch.device(device).type == "cpu":
            arguments["device_map"] = "cpu"
        elif alone and takes["device_map"] == "":  # among several processes this is what asks for each its own GPU
            arguments["device_map"] = device or "cuda"
    return arguments


def _by_pil(lm: Any, path: str) -> None:
    """Let PIL prepare the pictures: the same numbers with and without torchvision."""
    from transformers import AutoProcessor

    processor = getattr(lm, "_image_processor", None) or lm.processor
    processor.image_processor = AutoProcessor.from_pretrained(path, backend="pil").image_processor


class _Factory(lmms):
    """What lmms-eval believes to be the model class."""

    @classmethod
    def create_from_arg_string(cls, arg_string: Any, additional_config: Mapping[str, Any] | None = None) -> Any:
        """Return the stock model that ``base`` names, with the pruner applied and watched.

        Parameters
        ----------
        arg_string
            ``name=value`` pairs: ``base`` (``llava_hf`` by default, or ``auto``), ``method`` (``none`` by default),
            ``keep``, settings of the method by their names or as JSON in ``settings``, options of `evoprune.apply` by
            their names or in ``options``, and the arguments of the model class.
        additional_config
            What lmms-eval has options of its own for; pairs win over it.

        Raises
        ------
        ValueError
            An argument that is unknown or does not fit the model; under lmms-eval's own command line, which would end
            with exit code 0, SystemExit with the sentence.
        """
        given = {name: value for name, value in (additional_config or {}).items() if value is not None}
        given |= simple_parse_args_string(arg_string) if isinstance(arg_string, str) else dict(arg_string)
        with failing_loudly():
            base = given.pop("base", BASE)
            kind = base_class(base, cls.is_simple)
            wanted = parse(given, parameters_of(kind), defaults(given.get("pretrained", "")))
            check_cache(wanted)
            lm = build(base, wanted.rest, cls.is_simple)
            handle = None
            if wanted.pruner is not None:
                handle = apply(lm.model, wanted.pruner, tokenizer=getattr(lm, "tokenizer", None), **wanted.options)
        Watch(lm, handle, fail=fail).install()
        return lm

    def loglikelihood(self, requests: Any) -> NoReturn:
        raise NotImplementedError

    generate_until = generate_until_multi_round = loglikelihood


class EvoPruneChat(_Factory):
    """The model class for tasks as messages."""

    is_simple = False


class EvoPruneSimple(_Factory):
    """The model class for tasks as plain text, ``--force_simple``."""

    is_simple = True
