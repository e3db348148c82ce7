"""The worker: pictures of one budget at a time go through a tower that merges, in parts that bound its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor
from vllm.model_executor.models.utils import StageMissingLayer

from ...models.base import Family, Modality
from ...models.features import install_features
from ...models.hooks import install_tower
from ...models.plan import Plan
from ...models.state import TowerState
from ..counts import check_family
from ..options import Options, from_row
from .family import mean_over_ranks
from .front import MODALITIES, field


class Hooks:
    """The hooks of one budget on the tower of this rank, until `remove`."""

    def __init__(self, family: Family, options: Options, batch: int):
        self.options, self.plan = options, Plan(family, options.pruners)
        self.state = TowerState(self.plan)
        self.state.over_ranks = mean_over_ranks()
        self.state.inside_model = self.state.encoding = True
        with ExitStack() as stack:
            stack.callback(self.state.close)
            install_tower(family, self.plan, self.state, stack, batch)
            family.install(self.state, stack)
            install_features(family, self.state, stack)
            self.remove = stack.pop_all().close


class Pruned:
    """A model of vLLM that prunes inside its encoder; stands before one of vLLM's in the bases of a class.

    Features that a client computed itself (`image_embeds`) pass as they are.
    """

    supports_tower_connector_lora = False  # it counts on as many tokens in the tower as in the prompt
    config: Any
    _hooks: Hooks | None = None

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        check_family(vllm_config.model_config.hf_config)
        options = Options.read(vllm_config.model_config.hf_config)
        if vllm_config.compilation_config.compile_mm_encoder:
            raise ValueError("compile_mm_encoder compiles the encoder without the hooks that prune in it: leave it out")
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._options = options
        self._most = int(vllm_config.scheduler_config.max_num_batched_tokens)
        if self._encodes():
            self.use(options)

    def family(self) -> Family:
        """Return the family that sees this model."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its tower is seen: define family()")

    def _encodes(self) -> bool:
        """Whether there is a tower: vLLM builds none for a server of text, or of features made elsewhere."""
        tower = next(module for name, module in self.named_modules() if name.endswith("vision_tower"))  # type: ignore
        return not isinstance(tower, StageMissingLayer)

    @property
    def state(self) -> TowerState:
        """What the encoder's last run did."""
        if self._hooks is None:
            raise RuntimeError(f"{type(self).__name__} has no hooks yet: call use(options) first")
        return self._hooks.state

    def use(self, options: Options) -> TowerState:
        """Let the tower prune by `options`."""
        if self._hooks is None or self._hooks.options.to_json() != options.to_json():
            if self._hooks is not None:
                self._hooks.remove()
                self._hooks = None  # should the next ones fail
            family = self.family()
            self._hooks = Hooks(family, options, self._at_a_time(family))
        return self._hooks.state

    def _at_a_time(self, family: Family) -> int:
        """Return how many tiles or frames a native encoder step could have: more, since they are pruned, come in parts.

        vLLM bounds a step by the tokens that leave the encoder; those that enter it decide on its memory.
        """
        resolutions = getattr(self.config, "image_grid_pinpoints", None) or ()
        side = family.tower_config.image_size
        largest = 1 + max(((height // side) * (width // side) for height, width in resolutions), default=0)
        return max(largest, self._most // family.tokens_after(()).full)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        given = {modality: kwargs.pop(field(modality)) for modality in MODALITIES if field(modality) in kwargs}
        if len(given) > 1:
            raise RuntimeError(f"pictures and videos came in one call ({list(kwargs)}), which vLLM never makes")
        if not given:
            if kwargs:
                raise RuntimeError(
                    f"pictures came without {field('image')} ({', '.join(kwargs)}): front end and worker are of "
                    "different versions of evoprune"
                )
            return super().embed_multimodal()  # type: ignore[misc]
        ((modality, table),) = given.items()
        rows = table.tolist()  # on the CPU
        keeps = [from_row(row[:2]) for row in rows]
        found: list[Tensor | None] = [None] * len(keeps)
        for keep in dict.fromkeys(map(_key, keeps)):
            items = [i for i, one in enumerate(keeps) if _key(one) == keep]
            if self._encodes():
                self.use(self._options.at(keeps[items[0]])).modality = modality
            for item, features in zip(items, self._encode(_of(kwargs, items, len(keeps)), modality), strict=True):
                _check(features, int(rows[item][2]), modality)
                found[item] = features
        return found

    def _encode(self, kwargs: dict[str, Any], modality: Modality) -> Sequence[Tensor]:
        """Return the features of each picture or video of one budget, (K, D) each."""
        made = kwargs.get(f"{modality}_embeds")
        found = super().embed_multimodal(**kwargs) if made is None else made  # type: ignore[misc]
        return [one.flatten(0, -2) for one in found]


def _check(features: Tensor, placeholders: int, modality: Modality) -> None:
    """Refuse another number of rows than the prompt has places for: vLLM cuts off what is too much, without a word."""
    if len(features) != placeholders:
        raise RuntimeError(
            f"the encoder made {len(features)} tokens of a {modality} for which the prompt has {placeholders} "
            "placeholders: please report this with the model's name and the options of the server"
        )


def _key(keep: int | float | None) -> str:
    return repr(keep)  # 1 token and a share of 1.0 are equal numbers


def _of(kwargs: Mapping[str, Any], items: Sequence[int], number: int) -> dict[str, Any]:
    """Return the arguments of some of `number` pictures or videos: every tensor and list has one entry each."""
    if len(items) == number:
        return dict(kwargs)
    return {
        name: value[list(items)] if isinstance(value, Tensor) else [value[i] for i in items]
        for name, value in kwargs.items()
    }
