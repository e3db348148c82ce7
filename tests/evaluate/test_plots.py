"""Pictures of a summary: what they show, that they come out the same, and what is refused."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from evoprune.evaluate import plots
from evoprune.evaluate.arms import FRAMES, FULL, Arm
from evoprune.evaluate.plots import kinds as plot_kinds
from evoprune.evaluate.plots import time as plot_time
from evoprune.evaluate.plots import tokens as plot_tokens
from evoprune.evaluate.plots.style import GROUPS, group, named, styles, tokens
from evoprune.pruners import METHODS

pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")

KINDS = {"digit": 0.9, "last_colour": 0.5}
KEEPS = (0.5, 0.25, 0.125)


def entry(method: str, keep: float | None, place: int = 0, label: str = "") -> dict[str, Any]:
    """An arm of 200 tokens at most; inside the language model all of them enter its first two of four layers."""
    value = 0.8 if keep is None else 0.8 - 0.1 * (1 - keep) * (1 + place % 5)
    arm = Arm(method, keep, label=label)
    inside = keep is not None and method in METHODS and METHODS[method].stage == "decoder"
    left = 200 * (keep or 1.0)
    return {
        "arm": arm.to_dict(),
        "name": arm.name,
        "error": None,
        "tokens": 200.0 if inside else left,
        "layers": [200.0, left, left, left] if inside else [],
        "accuracy": [value, value - 0.02, value + 0.02],
        "kinds": {kind: [share * value, 10] for kind, share in KINDS.items()},
    }


def summary(methods: list[str], keeps: tuple[float, ...] = KEEPS, labels: tuple[str, ...] = ()) -> dict[str, Any]:
    arms = [entry(FULL, None)]
    arms += [entry(method, keep, place) for keep in keeps for place, method in enumerate(methods)]
    arms += [entry("evoprune", keep, place, label) for keep in keeps for place, label in enumerate(labels)]
    return {"tasks": {"scenes": {"questions": 20, "groups": 5, "arms": arms}}}


EVERY = [*METHODS, FRAMES]


def times(found: dict[str, Any], leave: str = "") -> dict[str, Any]:
    """The unpruned model takes 10 s, others from 4 s on; the one to `leave` was not timed."""
    arms = [
        {"arm": one["arm"], "error": None, "times": {"ttft": {"median": 4.0 + place % 7}}}
        for place, one in enumerate(found["tasks"]["scenes"]["arms"])
        if one["arm"]["method"] not in (FULL, leave)
    ]
    base = {"kind": "native", "error": None, "times": {"ttft": {"median": 10.0}}}
    return {"configuration": {}, "runs": [{"clock": "seconds", "bases": [base], "arms": arms}]}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures as they are saved."""
    figures: list[Any] = []
    for module in (plot_kinds, plot_time, plot_tokens):
        save = module.save
        monkeypatch.setattr(
            module, "save", lambda p, figure, path, save=save: (figures.append(figure), save(p, figure, path))
        )
    return figures


def test_every_method_looks_different_and_the_same_in_every_picture() -> None:
    arms = summary(EVERY)["tasks"]["scenes"]["arms"]
    looks = styles(arms)
    assert set(looks) == set(EVERY)
    assert len({(style.colour, style.marker) for style in looks.values()}) == len(EVERY)
    assert all((style.dash == "--") == (style.group == "sanity") for style in looks.values())
    some = styles([one for one in arms if one["name"] in ("dart", "grid", "tome")])
    assert [*some] == ["tome", "dart", "grid"] and all(some[name] == looks[name] for name in some)
    assert [group(name) for name in ("evoprune", "divprune", "fastv", "pool", "downsample", FRAMES)] == [
        "encoder", "feature", "decoder", "sanity", "sanity", "sanity",
    ]  # fmt: skip


def test_random_is_grey_everywhere_and_methods_have_a_colour_each() -> None:
    looks = styles(summary(EVERY)["tasks"]["scenes"]["arms"])
    methods = [style.colour for style in looks.values() if style.group != "sanity"]
    assert len(set(methods)) == len(methods) == 11
    assert looks["random"].colour == "#777777" and not set(methods) & {
        s.colour for s in looks.values() if s.dash == "--"
    }


def test_random_beside_others_looks_as_it_does_among_its_own(tmp_path: Path, drawn: list[Any]) -> None:
    plots.accuracy_by_tokens(summary(EVERY), "scenes", tmp_path / "tokens.png")
    looks = set()
    for axis in drawn[0].axes:
        lines = {line.get_label(): line for line in axis.lines} | {c.get_label(): c.lines[0] for c in axis.containers}
        line = lines["random"]
        looks.add((line.get_color(), line.get_marker(), line.get_linestyle()))
    assert looks == {("#777777", "X", "--")}


def test_arms_of_one_name_are_called_by_what_they_differ_in(tmp_path: Path, drawn: list[Any]) -> None:
    found = summary(["evoprune", "random"], (0.5, 0.25))
    arms = found["tasks"]["scenes"]["arms"]
    for settings in ({"positions": "original", "matching": 1}, {"positions": "closed", "matching": 1}):
        for one in [arm for arm in arms if arm["name"] == "evoprune" and not arm["arm"]["settings"]]:
            arms.append({**one, "arm": {**one["arm"], "settings": settings}})
    names = ["evoprune", "evoprune (matching=1, positions=original)", "evoprune (matching=1, positions=closed)"]
    looks = styles(named(arms))
    assert set(looks) == {*names, "random"} and len({(s.colour, s.marker) for s in looks.values()}) == 4
    plots.accuracy_by_tokens(found, "scenes", tmp_path / "tokens.png")
    shown = {c.get_label(): len(c.lines[0].get_xdata()) for c in drawn[0].axes[0].containers}
    assert shown == dict.fromkeys(names, 2)  # two budgets each, and no line through both runs


def test_the_axis_has_ticks_where_methods_inside_the_model_are(tmp_path: Path, drawn: list[Any]) -> None:
    plots.accuracy_by_tokens(summary(EVERY), "scenes", tmp_path / "tokens.png")
    ticks = [[int(text.get_text()) for text in axis.get_xticklabels()] for axis in drawn[0].axes]
    inside = [tokens(entry("fastv", keep)) for keep in KEEPS]
    assert len([tick for tick in ticks[2] if min(inside) - 1 < tick < max(inside) + 1]) >= 2
    assert all(max(one) == 200 for one in ticks)  # the unpruned model's


def test_points_far_below_are_left_out_and_counted(tmp_path: Path, drawn: list[Any]) -> None:
    found = summary(["evoprune", "random", "first"])
    for one in found["tasks"]["scenes"]["arms"]:
        if one["name"] == "first":
            one["accuracy"] = [0.2, 0.19, 0.21]
    plots.accuracy_by_time(found, times(found), "scenes", tmp_path / "time.png")
    (axis,) = drawn[0].axes
    assert axis.get_ylim()[0] > 0.3
    assert "3 points are below this axis and not shown: 3 of first" in [text.get_text() for text in axis.texts]
    plots.accuracy_by_time(summary(["evoprune"]), times(summary(["evoprune"])), "scenes", tmp_path / "all.png")
    assert not any("below" in text.get_text() for text in drawn[1].axes[0].texts)


def test_times_of_pictures_are_no_times_of_videos(tmp_path: Path) -> None:
    found = summary(["grid"])
    found["tasks"]["tiny_clips"] = found["tasks"].pop("scenes")
    latency = times(summary(["grid"]))
    latency["configuration"] = {"frames": None, "picture": [480, 640], "batch": 16}
    with pytest.raises(ValueError, match="one picture of 480 x 640, batch 16 were timed, which tiny_clips does not"):
        plots.accuracy_by_time(found, latency, "tiny_clips", tmp_path / "time.png")
    latency["configuration"]["frames"] = 8
    plots.accuracy_by_time(found, latency, "tiny_clips", tmp_path / "time.png")


def test_the_heat_map_says_how_noisy_it_is_and_its_words_fit(tmp_path: Path, drawn: list[Any]) -> None:
    found = summary(["evoprune"])
    plots.change_by_kind(found, "scenes", 0.25, tmp_path / "kinds.png")
    figure = drawn[0]
    assert "an accuracy over n = 10 questions moves by up to ±31 points" in figure.axes[0].get_xlabel()
    label, whole = figure.axes[1].yaxis.label.get_window_extent(), figure.bbox
    assert whole.y0 <= label.y0 and label.y1 <= whole.y1


def test_arms_with_a_label_are_told_apart_from_their_method() -> None:
    labels = ("evoprune mean", "evoprune first:13", "evoprune last:13")
    looks = styles(summary(["evoprune"], labels=labels)["tasks"]["scenes"]["arms"])
    assert set(looks) == {"evoprune", *labels}
    assert len({(style.colour, style.marker) for style in looks.values()}) == 4


def test_tokens_are_the_mean_over_the_layers_that_they_enter() -> None:
    assert tokens(entry("grid", 0.25)) == 50
    assert tokens(entry("fastv", 0.25)) == (200 + 200 + 50 + 50) / 4


def test_a_panel_a_group_with_random_and_the_unpruned_model_in_each(tmp_path: Path, drawn: list[Any]) -> None:
    plots.accuracy_by_tokens(summary(EVERY), "scenes", tmp_path / "tokens.svg")
    axes = drawn[0].axes
    assert [axis.get_title("left").partition(",")[0] for axis in axes] == [words for words, _ in GROUPS.values()]
    for axis, name in zip(axes, GROUPS, strict=True):
        shown = [text.get_text() for text in axis.get_legend().get_texts()]
        mine = [method for method in EVERY if group(method) == name]
        assert sorted(shown) == sorted([*mine, *({"random", "unpruned"} - set(mine))])
        assert len(axis.containers) == len(mine)  # lines with intervals
        assert all(len(container.lines[0].get_xdata()) == len(KEEPS) for container in axis.containers)
        assert 0.8 in [line.get_ydata()[0] for line in axis.lines if line.get_label() == "unpruned"]
    grid = next(one for one in axes[3].containers if one.get_label() == "grid")
    assert grid.lines[0].get_ydata().tolist() == pytest.approx(
        [one["accuracy"][0] for keep in reversed(KEEPS) for one in [entry("grid", keep, EVERY.index("grid"))]]
    )
    assert grid.lines[0].get_linestyle() == "--" and axes[0].containers[0].lines[0].get_linestyle() == "-"
    spans = {axis.get_ylim() for axis in axes[:3]}
    assert len(spans) == 1 and len({axis.get_xlim() for axis in axes}) == 1  # the baselines have a scale of their own


def test_one_group_is_one_panel(tmp_path: Path, drawn: list[Any]) -> None:
    plots.accuracy_by_tokens(summary(["evoprune"], (0.5,)), "scenes", tmp_path / "one.png")
    assert len(drawn[0].axes) == 1
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_the_front_is_what_nothing_beats_in_both() -> None:
    points = [
        (0.5, 0.6, "a"),
        (0.4, 0.5, "b"),
        (0.6, 0.6, "later"),
        (0.7, 0.55, "worse"),
        (0.9, 0.7, "c"),
        (0.5, 0.5, "d"),
    ]
    assert [name for _, _, name in plots.pareto(points)] == ["b", "a", "c"]
    for x, y, name in points:
        beaten = any((u <= x and v >= y) and (u < x or v > y) for u, v, _ in points)
        assert beaten == (name not in "abc")
    assert plots.pareto([]) == []


def test_times_are_a_point_an_arm_and_the_front_is_named(tmp_path: Path, drawn: list[Any]) -> None:
    found = summary(EVERY)
    latency = times(found, leave="first")
    plots.accuracy_by_time(found, latency, "scenes", tmp_path / "time.pdf")
    (axis,) = drawn[0].axes
    lines = {line.get_label(): line for line in axis.lines if not line.get_label().startswith("_")}
    lines |= {one.get_label(): one.lines[0] for one in axis.containers}  # with intervals
    assert set(lines) == {*EVERY, "unpruned"} - {"first"}  # what was not timed is not drawn
    assert lines["unpruned"].get_xydata().tolist() == [[1.0, 0.8]]
    arms = found["tasks"]["scenes"]["arms"]
    place = next(i for i, one in enumerate(arms) if one["name"] == "dart" and one["arm"]["keep"] == 0.5)
    assert [(4.0 + place % 7) / 10, arms[place]["accuracy"][0]] in lines["dart"].get_xydata().tolist()
    (front,) = [line for line in axis.lines if line.get_drawstyle() == "steps-post"]
    numbers = [text.get_text() for text in axis.texts if text.get_text().isdigit()]
    assert numbers == [str(i + 1) for i in range(len(front.get_xdata()))]
    named = [text.get_text() for text in axis.get_legend().get_texts()][1:]
    assert len(named) == len(numbers) and named[-1].endswith("unpruned")


def test_labels_of_a_crowded_front_do_not_cover_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = summary(["grid", "pool", "first", "divprune", "dart"], (0.5,))
    for place, one in enumerate(found["tasks"]["scenes"]["arms"][1:]):
        one["accuracy"] = [0.7 + 0.001 * place + aside for aside in (0, -0.02, 0.02)]
    latency = times(found)
    for place, one in enumerate(latency["runs"][0]["arms"]):
        one["times"]["ttft"]["median"] = 5.0 + 0.001 * place
    covered: list[bool] = []
    spread = plot_time._spread

    def watched(figure: Any, texts: Any) -> None:
        """Whether labels cover each other, before and behind; a saved figure has the sizes of another resolution."""
        for step in (figure.canvas.draw, lambda: spread(figure, texts)):
            step()
            boxes = [text.get_window_extent() for text in texts]
            covered.append(any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]))

    monkeypatch.setattr(plot_time, "_spread", watched)
    plots.accuracy_by_time(found, latency, "scenes", tmp_path / "time.png")
    assert covered == [True, False]


def test_the_heat_map_is_the_change_in_points(tmp_path: Path, drawn: list[Any]) -> None:
    found = summary(EVERY)
    plots.change_by_kind(found, "scenes", 0.25, tmp_path / "kinds.svg")
    axis = drawn[0].axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == [*styles(found["tasks"]["scenes"]["arms"])]
    assert [text.get_text().splitlines()[0] for text in axis.get_xticklabels()] == ["digit", "last colour"]
    change = axis.images[0].get_array()
    row = [text.get_text() for text in axis.get_yticklabels()].index("grid")
    value = entry("grid", 0.25, EVERY.index("grid"))["accuracy"][0]
    assert change[row].tolist() == pytest.approx([100 * share * (value - 0.8) for share in KINDS.values()])
    assert len(axis.texts) == change.size and axis.texts[0].get_text() == f"{change[0, 0]:+.0f}"


def test_equal_results_give_equal_files(tmp_path: Path) -> None:
    found = summary(EVERY, (0.5, 0.25))
    latency = times(found)
    for name in ("a", "b"):
        plots.accuracy_by_tokens(found, "scenes", tmp_path / f"{name}-tokens.svg")
        plots.accuracy_by_time(found, latency, "scenes", tmp_path / f"{name}-time.svg")
        plots.change_by_kind(found, "scenes", 0.5, tmp_path / f"{name}-kinds.svg")
    for what in ("tokens", "time", "kinds"):
        assert (tmp_path / f"a-{what}.svg").read_bytes() == (tmp_path / f"b-{what}.svg").read_bytes()


def test_nothing_to_draw_is_a_sentence(tmp_path: Path) -> None:
    found, path = summary(["grid"]), tmp_path / "none.svg"
    with pytest.raises(ValueError, match="no task 'clips': choose one of scenes"):
        plots.accuracy_by_tokens(found, "clips", path)
    with pytest.raises(ValueError, match="no method was measured on scenes"):
        plots.accuracy_by_tokens(summary([]), "scenes", path)
    with pytest.raises(ValueError, match="no arm of scenes was timed"):
        plots.accuracy_by_time(found, None, "scenes", path)
    with pytest.raises(ValueError, match=r"nothing at keep=0\.3"):
        plots.change_by_kind(found, "scenes", 0.3, path)
    with pytest.raises(ValueError, match=r"a plot is \.svg, \.png or \.pdf"):
        plots.change_by_kind(found, "scenes", 0.5, tmp_path / "none.gif")
    assert not path.exists()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'evoprune\[plots\]'"):
        plots.accuracy_by_tokens(summary(["grid"]), "scenes", tmp_path / "a.svg")
