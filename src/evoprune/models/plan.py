"""The plan of one `apply`: which stage drops how many tokens where, fixed from shapes before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from .. import schedules
from ..pruners import DecoderPruner, EncoderPruner, FeaturePruner, InputPruner, Pruner
from .base import STAGES, Count, Family, Grid, Modality, chain


@dataclass(frozen=True)
class Budget:
    """Counts of one tower item through the stages, in units, without prefix tokens (CLS).

    Attributes
    ----------
    full
        Patches (rows, columns) of the item as the processor makes it.
    grid
        Patches that enter the tower.
    merges
        Pairs of units merged at each layer that runs.
    features, selected
        Units that enter and that leave the feature stage.
    count
        Tokens in the language model, native and pruned, with the prefix tokens that it sees.
    flops, selection_flops
        The tower's, and what choosing the pairs adds to them.
    """

    full: Grid
    grid: Grid
    entering: int
    merges: tuple[int, ...]
    features: int
    selected: int
    count: Count
    flops: int
    selection_flops: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """Units that leave each layer of the tower that runs."""
        return tuple(accumulate(self.merges, lambda left, merged: left - merged, initial=self.entering))[1:]

    @property
    def pruned(self) -> bool:
        """Whether anything is dropped: the family's own poolings are then left out."""
        return self.grid != self.full or any(self.merges) or self.selected < self.features


class Plan:
    """The pruners of one `apply` by stage, and the budgets of pictures by their grid.

    Attributes
    ----------
    fixed
        The budget of every picture, None where pictures differ in size.
    layers
        How many layers of the tower run.
    merging
        The layers that may merge.
    """

    def __init__(self, family: Family, pruners: Sequence[Pruner]):
        self.family, self.pruners = family, tuple(pruners)
        stages = _by_stage(pruners, family)
        self.image, self.wanted, self.picker, self.last = (stages.get(stage) for stage in STAGES)
        self.layers = max(family.feature_layers)
        self._budgets: dict[tuple[Grid, Modality], Budget] = {}
        self.fixed = self.budget(family.grid) if family.grid is not None and len(family.modalities) == 1 else None
        if family.grid is not None:
            for modality in family.modalities:
                self.budget(family.grid, modality)
        self.merging = self._merging_layers()
        if family.grid is None and isinstance(self.wanted, EncoderPruner):
            layers, allowed = min(family.feature_layers), family.merging_layers
            schedules.check_fit(self.wanted.schedule, layers, allowed)  # what depends on no picture's size

    @property
    def encoder(self) -> EncoderPruner | None:
        """The pruner inside the tower, None where it merges nothing."""
        return self.wanted if isinstance(self.wanted, EncoderPruner) and self.merging else None

    @property
    def feature(self) -> FeaturePruner | None:
        """The pruner behind the tower, None where it keeps everything."""
        known = self._budgets.values() if self.family.grid is not None else ()
        idle = bool(known) and all(one.selected == one.features for one in known)
        return self.picker if isinstance(self.picker, FeaturePruner) and not idle else None

    @property
    def decoder(self) -> DecoderPruner | None:
        """The pruner inside the language model, None where it keeps everything."""
        everything = isinstance(self.last, DecoderPruner) and type(self.last.keep) is float and self.last.keep == 1.0
        return self.last if isinstance(self.last, DecoderPruner) and not everything else None

    @property
    def reads_prompt(self) -> bool:
        """Whether any pruner has to know the prompt's text, or where its visual tokens stand."""
        return self.decoder is not None or (self.feature is not None and "relevance" in self.feature.needs)

    @property
    def original_positions(self) -> bool:
        """Whether survivors keep the positions of their placeholders in the language model."""
        if self.fixed is not None and self.fixed.count.short == self.fixed.count.full:
            return False
        before = [one for one in self.pruners if one.stage != "decoder"]
        return bool(before) and (self.family.mrope or before[0].positions == "original")

    def budget(self, grid: Grid, modality: Modality = "image") -> Budget:
        """Return the counts of a tower item of `grid` patches.

        Raises
        ------
        ValueError
            A count that the model cannot give.
        """
        if (grid, modality) not in self._budgets:
            self._budgets[grid, modality] = self._make(grid, modality)
        return self._budgets[grid, modality]

    def _make(self, grid: Grid, modality: Modality) -> Budget:
        family, lenient = self.family, self.family.grid is None or not self.family.uniform
        native, entering, small = family.native(grid, modality), family.units(grid), grid
        visible = native
        if isinstance(self.image, InputPruner) and (left := chain([self.image], visible, lenient)) < visible:
            visible = entering = left
            small = (math.isqrt(left) * family.unit_side,) * 2
        merges = [0] * self.layers
        if isinstance(self.wanted, EncoderPruner) and (left := chain([self.wanted], visible, lenient)) < visible:
            merges, visible = self._merges(self.wanted, entering, left), left
        features = entering - sum(merges)
        if isinstance(self.picker, FeaturePruner) and (left := chain([self.picker], visible, lenient)) < visible:
            selected = left
        else:
            selected = features
        extra = 0
        if any(merges):
            extra = self.wanted.selection_flops(  # type: ignore[union-attr]
                entering, merges, family.width, family.prefix, family.unit_side**2, family.head_width
            )
        return Budget(
            full=grid, grid=small, entering=entering, merges=tuple(merges), features=features, selected=selected,
            count=family.tokens_after(self.pruners, grid, modality), flops=family.tower_flops(small, merges),
            selection_flops=extra,
        )  # fmt: skip

    def _merges(self, encoder: EncoderPruner, tokens: int, keep: int) -> list[int]:
        layers = self.family.feature_layers
        if not min(layers):
            raise ValueError(
                f"vision_feature_layer selects hidden states {list(layers)}, and nothing can merge before the "
                "embeddings (0): choose later feature layers or a pruner that acts after the encoder"
            )
        wanted = encoder.merges(tokens, min(layers), keep=keep, allowed=self.family.merging_layers)
        return [*wanted, *([0] * (self.layers - len(wanted)))]

    def _merging_layers(self) -> tuple[int, ...]:
        if not isinstance(self.wanted, EncoderPruner):
            return ()
        if self.family.grid is not None:
            return tuple(i for i in range(self.layers) if any(one.merges[i] for one in self._budgets.values()))
        allowed = self.family.merging_layers
        return tuple(i for i in range(min(self.family.feature_layers)) if allowed is None or i in allowed)


def _by_stage(pruners: Sequence[Pruner], family: Family) -> dict[str, Pruner]:
    stages: dict[str, Pruner] = {}
    for pruner in pruners:
        if not isinstance(pruner, Pruner):
            raise TypeError(
                f"{pruner!r} is no pruner: give for example evoprune.EvoPrune(keep=64) or a list of pruners"
            )
        if pruner.stage not in family.stages:
            raise ValueError(
                f"{pruner.name} acts at the {pruner.stage} stage, which {family.name} does not have: choose a method "
                f"of {', '.join(family.stages)}"
            )
        if pruner.stage in stages:
            raise ValueError(
                f"{stages[pruner.stage].name} and {pruner.name} both act at the {pruner.stage} stage: give one a stage"
            )
        stages[pruner.stage] = pruner
    if not stages:
        raise ValueError("the list of pruners is empty: give at least one, for example evoprune.EvoPrune(keep=64)")
    if len({pruner.positions for stage, pruner in stages.items() if stage != "decoder"}) > 1:
        raise ValueError("the pruners ask for different positions: give all of them 'contiguous' or all 'original'")
    return stages
