"""Rungs are nested and stratified; ranks never compare across rungs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge_jax.search import fidelity
from tests import tiny_items

LABELS = {'a': [0] * 30 + [1] * 10, 'b': [0, 1, 2] * 20}
NAN = float('nan')


@pytest.fixture
def items():
  """Two tasks, their items mixed."""
  task = np.repeat([0, 1], [len(LABELS['a']), len(LABELS['b'])])
  label = np.concatenate([LABELS['a'], LABELS['b']])
  order = np.random.default_rng(3).permutation(len(task))
  return tiny_items.classified(
    ('a', 'b'),
    tuple(f'item{i}' for i in range(len(task))),
    ((1,),) * len(task),
    task[order].astype(np.int32),
    label[order].astype(np.int32),
  )


def test_each_rung_adds_its_items_once(items):
  added = fidelity.increments(items, (8, 20, 40), seed=0)
  together = np.concatenate(added)
  assert len(set(together.tolist())) == len(together) == 80
  for rung, size in enumerate((8, 20, 40)):
    so_far = np.concatenate(added[: rung + 1])
    assert np.bincount(items.task[so_far]).tolist() == [size, size]


def test_every_rung_has_the_labels_in_proportion(items):
  added = fidelity.increments(items, (8, 20, 40), seed=1)
  for rung, size in enumerate((8, 20, 40)):
    so_far = np.concatenate(added[: rung + 1])
    for task, name in enumerate(items.tasks):
      have = np.bincount(items.label[so_far[items.task[so_far] == task]])
      want = np.bincount(LABELS[name]) / len(LABELS[name]) * size
      np.testing.assert_allclose(have, want, atol=1.01)


def test_the_seed_alone_draws_the_items(items):
  one, same, other = (
    fidelity.increments(items, (8, 20), seed)[0].tolist() for seed in (5, 5, 6)
  )
  assert one == same
  assert sorted(one) != sorted(other)


@pytest.mark.parametrize('sizes', [(), (0, 5), (5, 5), (9, 5)])
def test_sizes_must_ascend(items, sizes):
  with pytest.raises(ValueError, match='expected ascending'):
    fidelity.increments(items, sizes, 0)


def test_too_few_items_are_named(items):
  with pytest.raises(ValueError, match=r"task 'a' has 40 .* needs 41"):
    fidelity.increments(items, (8, 41), 0)


def test_promoted_are_the_best_and_never_a_failure():
  values = np.asarray([0.1, NAN, 0.7, 0.7, -np.inf, 0.3])
  assert fidelity.promoted(values, 3).tolist() == [2, 3, 5]
  assert fidelity.promoted(values, 9).tolist() == [2, 3, 5, 0, 4]
  assert fidelity.promoted(np.full(4, NAN), 2).tolist() == []


def test_ranks_put_the_higher_rung_first_whatever_the_numbers():
  low = np.asarray([0.9, 0.2, NAN, 0.5, 0.4])
  high = np.asarray([NAN, 0.1, NAN, 0.05, NAN])
  np.testing.assert_array_equal(
    fidelity.ranks([low, high]), [3.0, 5.0, 1.0, 4.0, 2.0]
  )


@given(
  st.lists(
    st.tuples(st.integers(-9, 9), st.booleans()), min_size=1, max_size=9
  ),
  st.floats(0.1, 10),
)
def test_only_the_order_within_a_rung_counts(drawn, factor):
  low = np.asarray([value for value, _ in drawn], np.float64)
  high = np.where([promoted for _, promoted in drawn], -low, NAN)
  ranks = fidelity.ranks([low, high])
  assert sorted(ranks) == list(range(1, len(drawn) + 1))
  np.testing.assert_array_equal(
    ranks, fidelity.ranks([2 * low + 5, high * factor - 3])
  )


def test_by_task_weighs_items_within_their_task():
  scores = np.asarray([1, 0, 0, 0, 1], np.float32)
  means = fidelity.by_task(scores, np.asarray([0, 1, 1, 1, 1]))
  np.testing.assert_array_equal(means, [1.0, 0.25])
