"""What methods are shown: of an encoder layer, of the features that leave it, of a layer of the language model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerView:
    """What one merging layer shows of its patch tokens; prefix tokens (CLS) are already taken off.

    Attributes
    ----------
    hidden
        (B, T, C) hidden states after the attention residual.
    sizes
        (B, T) float32, patches each token stands for.
    importance
        (B, T) float32 attention received, or None where nobody asked.
    keys
        (B, T, D) this layer's attention keys, mean over the heads, or None where nobody asked.
    protected
        (B, T) bool, True for padding, or None.
    """

    hidden: Tensor
    sizes: Tensor
    importance: Tensor | None = None
    keys: Tensor | None = None
    protected: Tensor | None = None


@dataclass(frozen=True)
class FeatureView:
    """What leaves the vision tower, before the projector or, where the method needs it, behind it.

    Attributes
    ----------
    features
        (B, N, C) features of the units; ``"projected"`` ones where `FeaturePruner.needs` says so.
    importance
        (B, N) float32 attention from CLS, or received, or None where nobody asked.
    keys
        (B, N, D) keys of the layer that the features come from, mean over the heads, or None where nobody asked.
    cls
        (B, C) state of CLS in that layer, or None: nobody asked, or it cannot stand beside the features.
    relevance
        (B, N) float32 mean cosine of each unit with the question, or None where nobody asked.
    owners
        int64 (B,), which rows belong to one picture (its tiles share a number), or None where nobody asked.
    grid
        Units (rows, columns), None where an earlier stage has merged or picked some of them.
    """

    features: Tensor
    importance: Tensor | None = None
    keys: Tensor | None = None
    cls: Tensor | None = None
    relevance: Tensor | None = None
    owners: Tensor | None = None
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class DecoderView:
    """What a layer of the language model shows of G blocks of n visual tokens: images, videos or frames.

    Attributes
    ----------
    attention
        (G, n) float32 attention from the prompt's last token, mean over the heads, or None where nobody asked.
    cross, within
        (G, n) float32 sums of attention, the largest of the heads: over all queries that are text, and the mean over
        the block's own queries; or None.
    hidden
        (G, n, C) states that leave the layer, behind the model's final norm, or None.
    keys
        (G, n, D) keys behind RoPE, repeated to all query heads and concatenated, or None.
    text_hidden, text_keys, text_mask
        (G, M, C), (G, M, D) and bool (G, M): the same of the text behind each block, True where there is any.
    """

    attention: Tensor | None = None
    cross: Tensor | None = None
    within: Tensor | None = None
    hidden: Tensor | None = None
    keys: Tensor | None = None
    text_hidden: Tensor | None = None
    text_keys: Tensor | None = None
    text_mask: Tensor | None = None
