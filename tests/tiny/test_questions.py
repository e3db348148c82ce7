"""Questions against a literal reading of the scene, with Pillow's pixels left out."""

import re

import numpy as np
import pytest

from evoprune.tiny import questions
from evoprune.tiny.scenes import COLOUR_NAMES, SIDE, scene


def literal_answer(text, glyphs):
    """The answer by reading the question's words, written apart from the code that made them."""
    named = {COLOUR_NAMES[g.colour]: g for g in glyphs}
    if m := re.fullmatch(r"What digit is (\w+)\?", text):
        return str(named[m[1]].digit)
    if m := re.fullmatch(r"What colour is the (\d)\?", text):
        (one,) = [g for g in glyphs if g.digit == int(m[1])]
        return COLOUR_NAMES[one.colour]
    if text == "How many digits are there?":
        return str(len(glyphs))
    if m := re.fullmatch(r"Is there a (\d)\?", text):
        return "yes" if any(g.digit == int(m[1]) for g in glyphs) else "no"
    if m := re.fullmatch(r"Is there a (\w+) digit\?", text):
        return "yes" if m[1] in named else "no"
    if m := re.fullmatch(r"What digit is nearest the (top|bottom) (left|right)\?", text):
        x, y = (0 if m[2] == "left" else SIDE), (0 if m[1] == "top" else SIDE)
        return str(min(glyphs, key=lambda g: (g.centre[0] - x) ** 2 + (g.centre[1] - y) ** 2).digit)
    if m := re.fullmatch(r"What digit is furthest (left|right)\?", text):
        return str((min if m[1] == "left" else max)(glyphs, key=lambda g: g.centre[0]).digit)
    if m := re.fullmatch(r"Is the (\w+) digit left of the (\w+) digit\?", text):
        return "yes" if named[m[1]].centre[0] < named[m[2]].centre[0] else "no"
    if text == "What digit is the largest?":
        return str(max(glyphs, key=lambda g: g.side).digit)
    raise AssertionError(text)


@pytest.mark.parametrize("index", range(150))
def test_answers_are_right(index):
    drawn = scene("dev", 11, index)
    for q in questions.every(drawn, np.random.default_rng(index)):
        assert q.kind in questions.KINDS
        assert literal_answer(q.text, drawn.glyphs) == q.answer


def test_one_of_each_has_no_kind_twice_and_all_kinds_occur():
    seen = set()
    for index in range(60):
        asked = questions.one_of_each(scene("dev", 12, index), np.random.default_rng(index))
        kinds = [q.kind for q in asked]
        assert len(set(kinds)) == len(kinds)
        seen |= set(kinds)
    assert seen == set(questions.KINDS)


def test_yes_and_no_are_balanced():
    said = []
    for index in range(400):
        asked = questions.one_of_each(scene("dev", 13, index), np.random.default_rng(index))
        said += [q.answer for q in asked if q.kind in ("exists", "relation")]
    assert 0.42 < said.count("yes") / len(said) < 0.58


def test_question_about_one_of_several_pictures():
    assert questions.of_picture("What digit is red?", 1) == "In the second picture, what digit is red?"
