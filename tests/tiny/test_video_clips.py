"""Clips: what docstrings promise about frames, movers, splits and labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoprune.tiny.pixels import SPLITS
from evoprune.tiny.video.clips import GRID, MOST_MOVERS, PATCH, SHORTEST_STAY, SIDE, TRAVEL, clip


@given(st.sampled_from(SPLITS), st.integers(0, 2**31), st.integers(0, 10**6), st.integers(6, 12))
@settings(max_examples=60, deadline=None)
def test_clip_keeps_its_promises(split, seed, index, frames):
    drawn = clip(split, seed, index, frames=frames)
    assert drawn.frames.shape == (frames, SIDE, SIDE, 3)
    assert drawn.frames.dtype == np.uint8
    assert 2 <= len(drawn.movers) <= MOST_MOVERS
    for values in ("digit", "colour"):
        assert len({getattr(m, values) for m in drawn.movers}) == len(drawn.movers)
    assert len({m.seen[0] for m in drawn.movers}) == len(drawn.movers), "no two come at once"
    for m in drawn.movers:
        assert len(m.seen) >= SHORTEST_STAY
        assert m.seen == tuple(range(m.seen[0], m.seen[-1] + 1))
        assert m.still == (m.travel == 0)
        assert m.still or abs(m.travel) >= TRAVEL
        steps = np.diff([m.boxes[frame][0] for frame in m.seen])
        assert (steps * np.sign(m.travel) >= 0).all(), "nothing turns round"
    for frame in range(frames):
        cover = np.zeros((SIDE, SIDE), dtype=int)
        for m in drawn.movers:
            if m.boxes[frame] is not None:
                left, top = m.boxes[frame]
                assert min(left, top) >= 0 and max(left, top) + m.side <= SIDE
                cover[top : top + m.side, left : left + m.side] += 1
        assert cover.max() <= 1


@given(st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_owners_lie_on_their_digit(index):
    drawn = clip("train", 3, index)
    assert drawn.owner.shape == (len(drawn.frames), GRID, GRID)
    for number, m in enumerate(drawn.movers):
        for frame, box in enumerate(m.boxes):
            rows, columns = np.nonzero(drawn.owner[frame] == number)
            assert bool(len(rows)) == (box is not None)
            if box is not None:
                assert box[1] - PATCH < rows.min() * PATCH <= rows.max() * PATCH < box[1] + m.side
                assert box[0] - PATCH < columns.min() * PATCH <= columns.max() * PATCH < box[0] + m.side


def test_the_photograph_stays_and_only_digits_change():
    drawn = clip("dev", 1, 4)
    owned = (drawn.owner >= 0).any(0).repeat(PATCH, 0).repeat(PATCH, 1)
    near = np.zeros_like(owned)
    for m in drawn.movers:  # the digits' dark edges lie inside their boxes
        for left, top in (box for box in m.boxes if box is not None):
            near[top : top + m.side, left : left + m.side] = True
    assert (drawn.frames[:, ~(near | owned)] == drawn.frames[0, ~(near | owned)]).all()
    assert (drawn.frames != drawn.frames[0]).any()


def test_clip_is_a_function_of_its_numbers():
    again = [clip("dev", 1, 5) for _ in range(2)]
    assert np.array_equal(again[0].frames, again[1].frames)
    assert again[0].movers == again[1].movers
    for other in (clip("dev", 1, 6), clip("dev", 2, 5), clip("test", 1, 5)):
        assert not np.array_equal(again[0].frames, other.frames)


def test_picked_frames_are_a_clip_of_their_own():
    drawn = clip("train", 2, 8, frames=10)
    for numbers in ((0, 3), (1, 2, 9), (9,)):
        part = drawn.pick(numbers)
        assert np.array_equal(part.frames, drawn.frames[list(numbers)])
        assert {m.digit for m in part.movers} == {m.digit for m in drawn.movers if set(m.seen) & set(numbers)}
        for place, number in enumerate(numbers):
            for y, x in np.ndindex(GRID, GRID):
                old, new = drawn.owner[number, y, x], part.owner[place, y, x]
                assert (old < 0) == (new < 0)
                assert old < 0 or drawn.movers[old].digit == part.movers[new].digit


def test_still_and_left_are_balanced():
    drawn = [clip("train", 5, index) for index in range(300)]
    assert 0.4 < np.mean([any(m.still for m in c.movers) for c in drawn]) < 0.6
    assert 0.7 < np.mean([sum(m.travel < 0 for m in c.movers) == 1 for c in drawn]) < 0.95


def test_user_mistakes_are_told():
    with pytest.raises(ValueError, match="6 or more"):
        clip("train", 0, 0, frames=5)
    with pytest.raises(ValueError, match="train, dev, test"):
        clip("valid", 0, 0)
