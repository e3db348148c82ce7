"""What EvoPrune (arXiv 2603.03681) prints in Tables 1 to 3 and tells of Figure 4, number by number, errors included.

A row is known by its method and the tokens it keeps of a picture or frame; `FULL` is what the paper calls native.
Accuracies are percents but for MME's points; latencies are shares of the unpruned model's; the last two columns are
the paper's own averages, "Acc." and "Rel.".
"""

from __future__ import annotations

from collections.abc import Sequence

from ..arms import FULL

Key = tuple[str, int | None]
Row = tuple[float, ...]

COLUMNS = {
    "table1": (
        "VQAv2", "MME", "MMBench", "MMBench-CN", "MM-Vet", "pre-LLM", "LLM", "overall", "Acc.", "Rel.",
    ),
    "table2": (
        "MVBench", "LongVideoBench", "perception", "relation", "Video-MME", "short", "medium", "long",
        "pre-LLM", "LLM", "overall", "Acc.", "Rel.",
    ),
    "table3": ("MVBench", "LongVideoBench", "Video-MME", "Acc.", "Rel."),
    "fig4": ("MVBench", "Video-MME", "encoding, s"),
}  # fmt: skip

TABLE1: dict[Key, Row] = {
    (FULL, None): (78.5, 1508, 61.8, 58.1, 32.2, 1.00, 1.00, 1.00, 76.5, 100.0),
    ("fastervlm", 128): (75.5, 1353, 58.3, 54.8, 33.1, 1.15, 0.77, 0.85, 72.3, 94.6),
    ("vispruner", 128): (75.8, 1405, 58.8, 55.2, 32.8, 1.32, 0.77, 0.90, 73.2, 95.7),
    ("dart", 128): (74.7, 1344, 57.5, 52.9, 31.3, 1.20, 0.77, 0.88, 70.9, 92.7),
    ("divprune", 128): (76.0, 1400, 59.3, 54.8, 31.5, 1.16, 0.77, 0.85, 72.9, 95.3),
    ("cdpruner", 128): (76.6, 1433, 60.6, 55.0, 31.7, 1.41, 0.77, 0.91, 73.9, 96.6),
    ("evoprune", 128): (76.8, 1441, 59.7, 57.3, 33.7, 1.10, 0.77, 0.84, 74.9, 97.9),
    ("fastervlm", 64): (72.7, 1294, 56.7, 51.9, 26.8, 1.09, 0.73, 0.79, 68.2, 89.2),
    ("vispruner", 64): (73.9, 1321, 57.7, 52.2, 29.5, 1.35, 0.73, 0.86, 69.9, 91.3),
    ("dart", 64): (71.3, 1250, 53.1, 49.1, 28.8, 1.13, 0.73, 0.80, 66.2, 86.6),
    ("divprune", 64): (74.1, 1342, 58.1, 52.4, 29.9, 1.12, 0.73, 0.79, 70.4, 92.0),
    ("cdpruner", 64): (75.4, 1418, 59.1, 53.3, 30.3, 1.38, 0.73, 0.86, 72.2, 94.4),
    ("evoprune", 64): (75.6, 1414, 58.3, 54.6, 32.4, 1.07, 0.73, 0.77, 72.9, 95.3),
    ("fastervlm", 32): (70.9, 1190, 53.7, 47.6, 26.5, 1.09, 0.71, 0.77, 64.5, 84.4),
    ("vispruner", 32): (72.1, 1196, 53.9, 48.5, 26.6, 1.35, 0.71, 0.84, 65.2, 85.2),
    ("dart", 32): (67.1, 1119, 49.1, 43.3, 23.7, 1.09, 0.71, 0.76, 59.8, 78.1),
    ("divprune", 32): (71.2, 1287, 55.7, 49.1, 26.9, 1.10, 0.71, 0.77, 66.8, 87.4),
    ("cdpruner", 32): (73.6, 1384, 57.4, 49.6, 28.6, 1.22, 0.71, 0.80, 69.6, 91.0),
    ("evoprune", 32): (73.1, 1337, 56.8, 51.3, 26.6, 1.06, 0.71, 0.75, 68.7, 89.8),
}
"""LLaVA-1.5-7B, tokens of 576 kept of a picture."""

TABLE2: dict[Key, Row] = {
    (FULL, None): (58.0, 56.0, 64.0, 48.9, 59.7, 71.3, 58.0, 49.7, 1.00, 1.00, 1.00, 57.9, 100.0),
    ("fastervlm", 64): (58.3, 54.9, 61.6, 49.0, 59.4, 70.1, 57.4, 50.6, 1.01, 0.45, 0.77, 57.5, 99.4),
    ("vispruner", 64): (58.3, 54.9, 61.6, 49.0, 59.4, 70.1, 57.4, 50.6, 1.01, 0.45, 0.77, 57.5, 99.4),
    ("dart", 64): (57.8, 54.2, 61.3, 47.9, 59.3, 70.6, 57.3, 50.1, 1.04, 0.45, 0.78, 57.1, 98.7),
    ("divprune", 64): (57.8, 54.8, 62.4, 48.2, 60.0, 71.2, 58.0, 50.8, 1.01, 0.45, 0.77, 57.5, 99.4),
    ("cdpruner", 64): (58.1, 55.1, 61.3, 49.7, 59.6, 70.8, 57.0, 51.0, 1.01, 0.45, 0.77, 57.6, 99.5),
    ("evoprune", 64): (56.9, 55.5, 61.9, 49.7, 60.6, 70.9, 58.9, 51.9, 0.54, 0.45, 0.55, 57.7, 99.7),
    ("fastervlm", 32): (56.8, 52.7, 58.9, 47.2, 58.1, 67.1, 56.6, 50.6, 1.01, 0.30, 0.71, 55.8, 96.5),
    ("vispruner", 32): (57.2, 53.5, 60.0, 47.8, 58.3, 69.4, 56.2, 49.2, 1.01, 0.30, 0.71, 56.3, 97.3),
    ("dart", 32): (57.3, 53.5, 60.8, 47.2, 59.0, 69.3, 57.7, 50.3, 1.02, 0.30, 0.71, 56.6, 97.8),
    ("divprune", 32): (56.9, 54.4, 60.8, 48.0, 58.6, 68.4, 56.9, 50.5, 1.01, 0.30, 0.71, 56.6, 97.8),
    ("cdpruner", 32): (57.2, 54.5, 61.8, 48.0, 58.6, 68.8, 56.3, 50.8, 1.01, 0.30, 0.71, 56.7, 97.9),
    ("evoprune", 32): (56.1, 55.1, 62.7, 48.5, 58.7, 68.3, 57.2, 50.6, 0.50, 0.30, 0.47, 56.7, 98.0),
    ("fastervlm", 16): (54.5, 51.2, 57.0, 46.1, 55.8, 63.8, 54.1, 49.6, 1.01, 0.24, 0.68, 53.8, 93.0),
    ("vispruner", 16): (55.2, 51.4, 58.9, 44.8, 56.3, 65.9, 54.0, 49.1, 1.01, 0.24, 0.68, 54.3, 93.8),
    ("dart", 16): (55.5, 53.0, 61.1, 45.9, 57.6, 67.6, 56.0, 49.3, 1.02, 0.24, 0.68, 55.4, 95.7),
    ("divprune", 16): (56.0, 53.1, 60.3, 46.8, 56.9, 66.1, 55.3, 49.2, 1.01, 0.24, 0.68, 55.3, 95.6),
    ("cdpruner", 16): (55.9, 52.7, 60.5, 45.8, 57.2, 66.7, 55.4, 49.6, 1.01, 0.24, 0.68, 55.3, 95.5),
    ("evoprune", 16): (55.8, 53.2, 58.9, 48.2, 57.4, 65.8, 56.0, 50.3, 0.46, 0.24, 0.43, 55.4, 95.8),
}
"""LLaVA-Video-7B, 64 frames, tokens of 169 kept of a frame."""

TABLE3: dict[Key, Row] = {
    (FULL, None): (58.0, 56.0, 59.7, 57.9, 100.0),
    ("without both", 64): (54.6, 54.3, 59.0, 55.9, 96.5),
    ("without attention", 64): (55.5, 54.9, 59.7, 56.7, 97.9),
    ("without diversity", 64): (56.2, 55.2, 60.4, 57.3, 98.9),
    ("evoprune", 64): (56.9, 55.5, 60.6, 57.7, 99.7),
}
"""The same model at 64 x 64 tokens: parts of EvoPrune's score left out."""

FIGURE4: dict[Key, tuple[float | None, ...]] = {
    ("skip", 64): (None, 60.44, 1.231),
    ("mean", 64): (None, 60.04, 1.320),
    ("skip", 16): (None, 55.56, None),
    ("mean", 16): (None, 52.96, None),
    ("first:13", 16): (None, 52.44, 0.608),
    ("decreasing:1.0", 16): (41.49, None, None),
}
"""The same model, schedules of EvoPrune: what Appendix A says in words; the curves themselves are a picture."""

NOTES = {
    "table1": (
        "The paper's Acc. adds five benchmarks, MME divided by 20, and divides by four; its Rel. is the ratio of two "
        "such averages. From the printed entries both come out within 0.1 of what is printed. The columns Acc. and "
        "Rel. do the same to our numbers; `mean` divides by five, and `mean of ratios` is the mean of the relative "
        "accuracies.",
        "The paper cites a data set of video quality for its VQAv2; the benchmark meant is VQAv2 of 2017.",
        "The paper's unpruned model has 61.8 on MMBench. We remember higher values reported of this model, but have "
        "not checked them; if so, it was asked in another way.",
        "On single pictures the paper's own EvoPrune takes longer before the LLM than its unpruned model.",
    ),
    "table2": (
        "At 64 x 64 the paper's rows of FasterVLM and VisPruner are equal in all 13 numbers: one may be a copy.",
        "Each rival's overall latency is a weighted mean of its two parts, 0.57 +- 0.01 of pre-LLM and the rest of "
        "LLM; by these weights EvoPrune's would be about 0.50, 0.41 and 0.37 where 0.55, 0.47 and 0.43 are printed, "
        "and 0.55 lies outside both its parts.",
        "Four averages are not those of the printed entries: at 64 x 32 these give 55.9 for FasterVLM (printed 55.8), "
        "56.8 for CDPruner and 56.6 for EvoPrune (56.7 both), at 64 x 16 they give 55.5 for EvoPrune (55.4).",
        "How the rivals rank tokens on a tower without CLS, pooled after the ranking, the paper does not say.",
    ),
    "table3": (
        "K, tau and lambda_d are not in the paper: the defaults here are this library's.",
        "Without both parts the printed entries average to 56.0, where 55.9 is printed.",
    ),
    "fig4": (
        "The appendix has numbers for six of the 18 settings. Of Last and Increasing together it has only the best "
        "accuracy on Video-MME, 60.78, without saying at which budget, and of Last64 that it takes almost 1.5 times as "
        "long as the average, without saying over what.",
        "Its appendix contradicts its Table 2 for the same settings: on Video-MME Skip64 has 60.44 there and 60.6 in "
        "the table, Skip16 55.56 and 57.4.",
        "Equal merges a layer cannot go from 729 to 32 or 16 tokens where every other layer merges: schedules here "
        "move what does not fit to other merging layers.",
    ),
}  # fmt: skip
"""What is known to be wrong or open in the paper's numbers, to be read beside them."""

SIZES = {"table1": 576, "table2": 169, "table3": 169, "fig4": 169}
"""Tokens of an unpruned picture or frame."""
LAYERS = 26
"""Layers of the video model's tower, which Figure 4's `first` and `last` count."""


def acc(table: str, values: Sequence[float]) -> float:
    """Return the paper's "Acc." of a table's benchmarks, in their order.

    Table 1's is (VQAv2 + MME / 20 + MMBench + MMBench-CN + MM-Vet) / 4, five over four, which gives its printed column;
    the others' is the mean of three.
    """
    if table == "table1":
        return (values[0] + values[1] / 20 + sum(values[2:])) / 4
    return sum(values) / len(values)


def mean(table: str, values: Sequence[float]) -> float:
    """Return the mean of a table's benchmarks, in their order: MME's points, of 2000, are percents first."""
    return acc(table, values) * 4 / 5 if table == "table1" else acc(table, values)
