"""A tower that vLLM has built, as one more family: the hooks, taps and feature stage of `evoprune.models` act on it.

vLLM builds only the layers whose output is read, fuses queries, keys and values into one projection, and calls an
attention module of its own with them.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ...models.attention import Tap
from ...models.base import BlockSpec, UnsupportedModel
from ...models.llava import Llava
from ...models.llava_next import LlavaNext
from ...models.llava_onevision import LlavaOnevision
from ...models.state import TowerState
from ...models.undo import set_attribute


class Native:
    """What differs from a family of transformers; stands before one in the bases of a class."""

    base: Any
    blocks: list[nn.Module]
    block = BlockSpec(attn="self_attn", norm2="layer_norm2", mlp="mlp", in_place=True)  # SigLIP's adds in place

    @property
    def tower_config(self) -> Any:
        return self.base.config.vision_config

    @property
    def backend(self) -> str:
        """``"sdpa"`` where vLLM's attention is torch's, in whose place `ops.attend` may stand; ``"vllm"`` else.

        Whichever that is, layers with a bias go through torch's (`install`).
        """
        attention: Any = getattr(self.blocks[0], self.block.attn).attn
        return "sdpa" if attention.attn_backend.name == "TORCH_SDPA" else "vllm"

    @property
    def feature_layers(self) -> tuple[int, ...]:
        chosen = self.base.config.vision_feature_layer
        if not isinstance(chosen, int):
            raise UnsupportedModel(
                f"vision_feature_layer={chosen} reads several layers of the tower, whose tokens are no longer the same "
                "ones after a merge: serve a checkpoint that reads one"
            )
        return (len(self.blocks),)

    def tap(self, block: nn.Module, state: TowerState, layer: int, stack: ExitStack) -> Tap:
        attention: Any = getattr(block, self.block.attn).attn
        return install(attention, state, self.backend, layer, stack)

    def install(self, state: TowerState, stack: ExitStack) -> None:
        """Keep CLS of the features, where a method of the feature stage wants it beside them."""
        pruner, family = state.plan.feature, state.plan.family
        if pruner is None or "cls" not in pruner.needs or family.prefix != 1:
            return

        def after_last(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            state.run.cls = (output[0] if isinstance(output, tuple) else output)[:, 0]

        stack.callback(self.blocks[-1].register_forward_hook(after_last).remove)


class NativeLlava(Native, Llava):
    """LLaVA-1.5 as vLLM builds it."""


class NativeLlavaNext(Native, LlavaNext):
    """LLaVA-NeXT as vLLM builds it."""


class NativeLlavaOnevision(Native, LlavaOnevision):
    """LLaVA-OneVision as vLLM builds it."""


def install(attention: Any, state: TowerState, backend: str, layer: int, stack: ExitStack) -> Tap:
    """Tap vLLM's attention module, which takes (B, T, H * D) or (B, T, H, D), until `stack` closes."""
    original = attention.forward

    def plain(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        if mask is None:
            return original(*kwargs["given"], *kwargs["more"]), None
        out = nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=kwargs["scaling"])
        return out.transpose(1, 2), None

    tap = Tap(state, plain, backend, layer)

    def forward(query: Tensor, key: Tensor, value: Tensor, *more: Any) -> Tensor:
        heads = [one.unflatten(-1, (-1, attention.head_size)) if one.ndim == 3 else one for one in (query, key, value)]
        q, k, v = (one.transpose(1, 2) for one in heads)
        settings = {"scaling": attention.scale, "given": (query, key, value), "more": more}
        output, _ = tap.run(attention, q, k, v, None, settings)
        return output.reshape(query.shape)

    set_attribute(attention, "forward", forward, stack)
    return tap


def mean_over_ranks() -> Any:
    """Return what averages a tensor over the ranks of tensor parallelism, None where there is one rank.

    Each rank sees its own heads, and all of them have to merge the same tokens.
    """
    from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce

    size = get_tensor_model_parallel_world_size()
    if size == 1:
        return None

    def mean(values: Tensor) -> Tensor:
        return (tensor_model_parallel_all_reduce(values.float().contiguous()) / size).to(values.dtype)

    return mean
