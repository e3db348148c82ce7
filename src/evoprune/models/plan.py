"""The plan of one `apply`: which stage drops how many tokens where, fixed from shapes before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from .. import flops
from ..pruners import EncoderPruner, FeaturePruner, InputPruner, Pruner
from .base import STAGES, Count, Family


@dataclass(frozen=True)
class Plan:
    """Counts of one image through the stages; T and N are without prefix tokens (CLS)."""

    pruners: tuple[Pruner, ...]
    count: Count
    side: int
    grid: int  # patches a side that enter the tower
    merges: tuple[int, ...]  # pairs merged at each layer that runs
    features: int  # tokens that enter the feature stage
    selected: int  # tokens that leave it
    flops: int  # the tower's, for one image
    selection_flops: int  # what choosing the pairs adds to them
    input: InputPruner | None = None
    encoder: EncoderPruner | None = None
    feature: FeaturePruner | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens that leave each layer of the tower that runs."""
        return tuple(accumulate(self.merges, lambda left, merged: left - merged, initial=self.grid**2))[1:]

    @property
    def original_positions(self) -> bool:
        """Whether survivors keep their placeholder's position in the language model, and some are dropped."""
        return self.pruners[0].positions == "original" and self.count.short < self.count.full

    def width_of(self, layer: int) -> int:
        """Return the tokens that enter layer `layer`."""
        return self.grid**2 - sum(self.merges[:layer])


def make_plan(family: Family, pruners: Sequence[Pruner]) -> Plan:
    """Check the pruners against the model and return the counts.

    Raises
    ------
    ValueError
        Two pruners of one stage, a count that the model cannot give, or feature layers that do not allow merging.
    """
    stages = _by_stage(pruners)
    layers = family.feature_layers
    image_pruner, encoder, feature = (stages.get(stage) for stage in STAGES[:3])
    grid = family.side
    if isinstance(image_pruner, InputPruner) and image_pruner.tokens_after(family.tokens) < family.tokens:
        grid = image_pruner.grid(family.side)
    left = grid**2
    merges = [0] * max(layers)
    if isinstance(encoder, EncoderPruner) and encoder.tokens_after(left) < left:
        if not min(layers):
            raise ValueError(
                f"vision_feature_layer selects hidden states {list(layers)}, and nothing can merge before the "
                "embeddings (0): choose later feature layers or a pruner that acts after the encoder"
            )
        wanted = encoder.merges(left, min(layers))
        merges[: len(wanted)] = wanted
    features = left - sum(merges)
    selected = feature.tokens_after(features) if feature is not None else features
    width, mlp = family.tower.config.hidden_size, family.tower.config.intermediate_size  # type: ignore
    merging = isinstance(encoder, EncoderPruner) and any(merges)
    return Plan(
        pruners=tuple(pruners),
        count=family.tokens_after(pruners),
        side=family.side,
        grid=grid,
        merges=tuple(merges),
        features=features,
        selected=selected,
        flops=flops.tower(left, merges, width, mlp, family.prefix),  # type: ignore[arg-type]
        selection_flops=encoder.selection_flops(left, merges, width, family.prefix) if merging else 0,  # type: ignore
        input=image_pruner if isinstance(image_pruner, InputPruner) and grid < family.side else None,
        encoder=encoder if merging else None,  # type: ignore[arg-type]
        feature=feature if isinstance(feature, FeaturePruner) and selected < features else None,
    )


def _by_stage(pruners: Sequence[Pruner]) -> dict[str, Pruner]:
    stages: dict[str, Pruner] = {}
    for pruner in pruners:
        if not isinstance(pruner, Pruner):
            raise TypeError(
                f"{pruner!r} is no pruner: give for example evoprune.EvoPrune(keep=64) or a list of pruners"
            )
        if pruner.stage not in STAGES[:3]:
            raise ValueError(f"{pruner.name} acts inside the language model, which is not supported yet: leave it out")
        if pruner.stage in stages:
            raise ValueError(
                f"{stages[pruner.stage].name} and {pruner.name} both act at the {pruner.stage} stage: give one a stage"
            )
        stages[pruner.stage] = pruner
    if not stages:
        raise ValueError("the list of pruners is empty: give at least one, for example evoprune.EvoPrune(keep=64)")
    if len({pruner.positions for pruner in stages.values()}) > 1:
        raise ValueError("the pruners ask for different positions: give all of them 'contiguous' or all 'original'")
    return stages
