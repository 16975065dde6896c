import itertools
import pathlib

import fronts_replay
import hypothesis
import hypothesis.strategies as st
import moocore
import numpy as np
import pytest

from automerge_jax.search import fronts

TESTDATA = pathlib.Path(__file__).parent / 'testdata'
NAN, INF = np.nan, np.inf


@st.composite
def sets(draw, most=14, objectives=(1, 4), scored=False):
  """Objectives on a coarse grid, with ties, equal rows and NaN, [P, M]."""
  number = draw(st.integers(*objectives))
  value = st.integers(0, 5).map(float)
  if not scored:
    value |= st.just(NAN) | st.just(-INF)
  rows = draw(
    st.lists(
      st.lists(value, min_size=number, max_size=number),
      min_size=1,
      max_size=most,
    )
  )
  return np.array(rows)


def violations(values):
  return np.nan_to_num(np.clip(values[:, 0], 0, 9) % 3)


def dominates(a, b, broken_a=0.0, broken_b=0.0):
  if broken_a != broken_b:
    return broken_a < broken_b
  return bool((a >= b).all() and (a > b).any())


def test_fronts_crowding_and_volume_are_pymoos_and_moocores():
  with np.load(TESTDATA / 'fronts_pymoo_0.6.2.npz') as recorded:
    assert fronts_replay.compare(dict(recorded)) == 45


@hypothesis.given(sets())
def test_who_is_on_a_front_is_dominated_just_from_the_front_before(values):
  broken = violations(values)
  level = fronts.fronts(values, broken)
  np.testing.assert_array_equal(level == -1, np.isnan(values).any(1))
  for j, own in enumerate(level):
    above = [
      level[i]
      for i in np.flatnonzero(level >= 0)
      if own >= 0 and dominates(values[i], values[j], broken[i], broken[j])
    ]
    assert own == -1 or max(above, default=-1) == own - 1


@hypothesis.given(sets(scored=True))
def test_fronts_are_moocores_ranks(values):
  ranks = moocore.pareto_rank(values, maximise=True)
  np.testing.assert_array_equal(fronts.fronts(values), ranks)


@hypothesis.given(sets(), st.randoms(use_true_random=False))
def test_fronts_do_not_depend_on_the_order_of_rows(values, random):
  turn = random.sample(range(len(values)), len(values))
  broken = violations(values)
  np.testing.assert_array_equal(
    fronts.fronts(values[turn], broken[turn]),
    fronts.fronts(values, broken)[turn],
  )


def test_constraints_come_before_objectives():
  values = np.array([[9.0, 9], [1, 1], [2, 1], [9, 9], [0, 0], [NAN, 1]])
  broken = np.array([0.2, 0, -1, 0.1, 0.2, 0])
  np.testing.assert_array_equal(
    fronts.fronts(values, broken), [3, 1, 0, 2, 4, -1]
  )
  np.testing.assert_array_equal(
    fronts.order(values, broken), [2, 1, 3, 0, 4, 5]
  )
  np.testing.assert_array_equal(fronts.archive(values, broken), [2])


def test_a_missing_violation_is_not_scored():
  level = fronts.fronts(np.zeros((2, 1)), np.array([0, NAN]))
  np.testing.assert_array_equal(level, [0, -1])


def test_crowding_is_the_mean_share_of_the_gaps_beside():
  values = np.array([[0.0, 10], [4, 6], [1, 8], [10, 0]])
  gaps = [(4 - 0 + 10 - 6) / 10 / 2, (10 - 1 + 8 - 0) / 10 / 2]
  np.testing.assert_allclose(
    fronts.crowding(values), [INF, gaps[1], gaps[0], INF]
  )


@pytest.mark.parametrize(
  ('values', 'expected'),
  [
    ([[3, 1]], [INF]),
    ([[3, 1], [3, 1]], [INF, INF]),
    ([[3, 1], [3, 1], [3, 1]], [0, 0, 0]),
    # A constant objective counts nothing; the equal row is not a neighbour.
    ([[0, 5], [1, 5], [1, 5], [4, 5]], [INF, 0.5, 0, INF]),
    ([[-INF, 3], [1, 2], [2, 1]], [INF, INF, INF]),
  ],
)
def test_crowding_of_degenerate_fronts(values, expected):
  np.testing.assert_allclose(fronts.crowding(np.array(values)), expected)


@hypothesis.given(sets())
def test_the_order_is_total_and_breaks_ties_by_index(values):
  broken = violations(values)
  level = fronts.fronts(values, broken)
  order = fronts.order(values, broken)
  assert sorted(order) == list(range(len(values)))
  apart = np.zeros(len(values))
  for number in set(level) - {-1}:
    apart[level == number] = fronts.crowding(values[level == number])
  for a, b in itertools.pairwise(order):
    key = (level[a] < 0, level[a], -apart[a], a)
    assert key < (level[b] < 0, level[b], -apart[b], b)


@hypothesis.given(sets(), st.integers(0, 6))
def test_promoted_are_the_best_that_were_scored(values, most):
  broken = violations(values)
  found = fronts.promoted(values, broken, most)
  scored = np.flatnonzero(~np.isnan(values).any(1))
  assert len(found) == min(most, len(scored))
  np.testing.assert_array_equal(
    found, fronts.order(values, broken)[: len(found)]
  )
  assert set(found) <= set(scored)


@hypothesis.given(sets(objectives=(1, 1)), st.data())
def test_one_objective_is_ranked_by_rung_then_value(values, data):
  further = np.array(
    data.draw(
      st.lists(
        st.sampled_from([NAN, 0.0, 1.0, 2.0, -INF]),
        min_size=len(values),
        max_size=len(values),
      )
    )
  )
  low = values[:, 0]
  failed = np.isnan(low) & np.isnan(further)
  far = ~np.isnan(further)
  value = np.where(far, further, low)
  rows = sorted(range(len(low)), key=lambda i: (failed[i], ~far[i], -value[i]))
  ranks = fronts.ranks([low[:, None], further[:, None]])
  np.testing.assert_array_equal(ranks[rows], np.arange(len(low), 0, -1))
  best = [i for i in np.argsort(-low, kind='stable') if not np.isnan(low[i])]
  assert fronts.promoted(values, None, 4).tolist() == best[:4]


def test_who_got_further_comes_first_in_the_order_of_that_rung():
  low = np.array([[9.0, 9], [1, 2], [2, 1], [NAN, NAN], [3, 3], [2, 2]])
  high = np.full((6, 2), NAN)
  high[1], high[2] = [0, 0], [0.1, 0]
  broken = [np.array([0.0, 0, 0, 0, 1, 0]), np.array([0, 0, 0.3, 0, 0, 0])]
  np.testing.assert_array_equal(fronts.ranks([low, high]), [4, 5, 6, 1, 3, 2])
  np.testing.assert_array_equal(
    fronts.ranks([low, high], broken), [4, 6, 5, 1, 2, 3]
  )


@hypothesis.given(sets())
def test_the_archive_is_not_dominated_and_dominates_the_rest(values):
  found = fronts.archive(values)
  scored = np.flatnonzero(~np.isnan(values).any(1))
  assert len({tuple(values[i]) for i in found}) == len(found)
  for j in scored:
    beaten = any(dominates(values[i], values[j]) for i in found)
    known = any((values[i] == values[j]).all() for i in found)
    assert beaten != known
  assert set(found) <= set(scored)


@hypothesis.given(sets(most=6, objectives=(1, 4), scored=True))
def test_hypervolume_counts_the_dominated_cells(values):
  reference = np.ones(values.shape[1])
  cells = itertools.product(range(1, 5), repeat=values.shape[1])
  covered = sum(
    any((row >= np.array(cell) + 1).all() for row in values) for cell in cells
  )
  assert fronts.hypervolume(values, reference) == pytest.approx(covered)


def test_hypervolume_ignores_what_is_not_above_the_reference():
  values = np.array([[2.0, 2], [5, 1], [1, 5], [NAN, 9], [-INF, 9]])
  assert fronts.hypervolume(values, np.array([1.0, 1])) == 1.0
  assert fronts.hypervolume(values[3:], np.array([1.0, 1])) == 0.0


@pytest.mark.parametrize(
  ('values', 'expected'),
  [
    ([[0.2], [0.9], [NAN], [0.9]], 1),  # one objective: the best
    ([[1, 0], [0.6, 0.7], [0.8, 0.3], [0, 1], [0.1, 0.1]], 1),
    # The same in other units, one of them shifted.
    ([[900, 0], [540, 0.7], [720, 0.3], [0, 1], [90, 0.1]], 1),
    ([[3, 0], [3, 1], [3, 0.5]], 1),  # a constant objective
    ([[2, 2], [2, 2]], 0),
    # The plane through the ends has intercepts 1, 1 and 2: its normal weighs
    # the third objective half, so the third row bulges out less.
    (
      [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.3], [0.3, 0.3, 0.6]],
      3,
    ),
    ([[1, 0], [0, 1], [0.3, 0.3]], 0),  # nothing bulges out: an end
  ],
)
def test_knee(values, expected):
  assert fronts.knee(np.array(values, float)) == expected


@hypothesis.given(sets(scored=True))
def test_a_knee_and_a_pick_are_of_the_archive(values):
  found = set(fronts.archive(values))
  assert fronts.knee(values) in found
  weights = np.arange(values.shape[1]) + 0.0
  weights[0] = 1
  best = fronts.pick(values, weights)
  assert best in found
  assert (values @ weights).max() == values[best] @ weights


def test_weights_are_rates_of_exchange():
  values = np.array([[0.80, 0.50], [0.79, 0.53], [0.70, 0.60], [0.9, 0.9]])
  broken = np.array([0, 0, 0, 0.1])
  assert fronts.pick(values, [2, 1], broken) == 1
  assert fronts.pick(values, [4, 1], broken) == 0
  assert fronts.pick(values, [0, 1], broken) == 2
  assert fronts.pick(values, [1, 1]) == 3


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda v: fronts.fronts(v[0]), r'\(2,\): expected \[P, M\]'),
    (lambda v: fronts.fronts(v, np.zeros(3)), r'\(3,\).*expected \[P\]'),
    (lambda v: fronts.crowding(v * NAN), '2 of 2 rows hold NaN'),
    (lambda v: fronts.pick(v, [1, -1]), r'\[1, -1\]: expected 2 numbers'),
    (lambda v: fronts.pick(v, [0, 0]), 'not all 0'),
    (lambda v: fronts.pick(v, [1]), r'weights \[1\]'),
    (lambda v: fronts.knee(v * NAN), 'no row is scored'),
    (lambda v: fronts.hypervolume(v, np.zeros(3)), 'expected 2 finite'),
  ],
)
def test_errors_name_what_was_expected(call, message):
  with pytest.raises(ValueError, match=message):
    call(np.array([[1.0, 2], [2, 1]]))
