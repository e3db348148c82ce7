"""Questions about clips against a literal reading of the boxes, and the fixed sets of the benchmark."""

import re
from collections import Counter

import numpy as np
import pytest

from evoprune.tiny.scenes import COLOUR_NAMES
from evoprune.tiny.video import benchmark, questions
from evoprune.tiny.video.clips import clip


def tracks(c):
    """For every digit: its value, colour, first frame and horizontal centres, read off the boxes."""
    found = []
    for m in c.movers:
        shown = [(t, box) for t, box in enumerate(m.boxes) if box is not None]
        centres = [box[0] + m.side / 2 for _, box in shown]
        still = len({box for _, box in shown}) == 1
        found.append((str(m.digit), COLOUR_NAMES[m.colour], shown[0][0], centres, still))
    return sorted(found, key=lambda t: t[2])


def literal_answer(text, c):
    """The answer by reading the question's words, written apart from the code that made them."""
    found = tracks(c)
    crossed = [(x[0] < 40) != (x[-1] < 40) for *_, x, _ in found]
    left = [x[-1] < x[0] for *_, x, _ in found]
    right = [x[-1] > x[0] for *_, x, _ in found]
    still = [s for *_, s in found]
    if match := re.fullmatch(r"(Which digit|What colour) (moves left|moves right|is still)\?", text):
        flags = {"moves left": left, "moves right": right, "is still": still}[match[2]]
        (one,) = [t for t, flag in zip(found, flags, strict=True) if flag]
        return one[match[1] == "What colour"]
    if match := re.fullmatch(r"Which digit came (first|second|third|last)\?", text):
        return found[{"first": 0, "second": 1, "third": 2, "last": -1}[match[1]]][0]
    if match := re.fullmatch(r"What colour was the (first|second|third|last) digit\?", text):
        return found[{"first": 0, "second": 1, "third": 2, "last": -1}[match[1]]][1]
    if text == "How many digits crossed the middle?":
        return str(sum(crossed))
    if text == "Is anything still?":
        return "yes" if any(still) else "no"
    if text == "How many digits are there?":
        return str(len(found))
    if match := re.fullmatch(r"Is there a (\d)\?", text):
        return "yes" if match[1] in [t[0] for t in found] else "no"
    (name,) = re.findall(r"\d|" + "|".join(COLOUR_NAMES), text)
    (number,) = [i for i, t in enumerate(found) if name in t[:2]]
    digit, colour, _, x, _ = found[number]
    if text.startswith("What"):
        return digit if text.startswith("What digit") else colour
    if text.startswith("On which side"):
        return "left" if x[0 if text.endswith("begin?") else -1] < 40 else "right"
    if text.startswith("Where"):
        return "nowhere" if still[number] else "left" if left[number] else "right"
    if text.startswith("Does"):
        return "yes" if crossed[number] else "no"
    assert text.startswith("When did"), text
    return ["first", "second", "third"][number]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_is_the_literal_one(split):
    kinds = set()
    for index in range(60):
        whole = clip(split, 4, index)
        for c in (whole, whole.pick((2, 6)), whole.pick((1, 4, 7))):
            for q in questions.every(c, np.random.default_rng(index)):
                assert q.answer == literal_answer(q.text, c), q.text
                kinds.add(q.kind)
    assert kinds == {*questions.KINDS, *questions.AIDS}


def test_nothing_is_asked_about_an_empty_clip():
    whole = clip("train", 0, 0)
    empty = [t for t in range(8) if all(m.boxes[t] is None for m in whole.movers)]
    for index in range(1, 200):
        if empty:
            break
        whole = clip("train", 0, index)
        empty = [t for t in range(8) if all(m.boxes[t] is None for m in whole.movers)]
    assert questions.every(whole.pick(empty[:1]), np.random.default_rng(0)) == []


@pytest.mark.parametrize("split", ["dev", "test"])
def test_sets_are_fixed_large_and_balanced(split):
    asked = benchmark.examples(split)
    assert len(asked) >= 1000
    assert asked[:40] == benchmark.examples(split, 20)[:40]
    for kind in questions.KINDS:
        counts = Counter(e.answer for e in asked if e.kind == kind)
        assert sum(counts.values()) >= 200
        limit = {"crossed": 0.5, "still": 0.55}.get(kind, 0.25)
        assert counts.most_common(1)[0][1] <= limit * sum(counts.values()), kind


def test_dev_and_test_differ():
    assert benchmark.examples("dev", 30) != benchmark.examples("test", 30)


def test_guessers_score_what_counting_says():
    asked = benchmark.examples("dev", 60)
    said = benchmark.commonest()
    assert benchmark.constant(asked).tolist() == [float(said[e.kind] == e.answer) for e in asked]
    scores = benchmark.one_frame_reader("dev", asked, 0)
    for score, e in zip(scores, asked, strict=True):
        first = [t for t in tracks(benchmark.film("dev", e.scene)) if t[2] == 0]
        if e.kind == "first" and first:
            assert score == 1.0, "nothing else is there in frame 0"
        if e.kind == "still":
            assert score == (said["still"] == e.answer)
