"""Every peer of the searches' comparison, live, on problems that are cheap."""

import functools

import numpy as np
import pytest

from experiments.bench.compare import peers
from experiments.bench.compare.problem import Problem

pytestmark = pytest.mark.oracle

TARGET = np.array([0.3, 0.7, 0.4, 0.6])
OPTIONS = np.array([4, 3])
RUNGS = (22, 67, 200)
BUDGET = 30  # full evaluations
SINGLE = ('smac', 'pycma', 'pymoo', 'random')


def sphere(x, items):
  """Costs below 1, lowest at the target; less exact at lower rungs."""
  return 1 - ((x[:, :4] - TARGET) ** 2).mean(1, keepdims=True) - 1 / items


def typed(x, items):
  """The sphere, of which every wrong category costs as much as 0.1."""
  option = np.floor(x[:, 4:] * OPTIONS)
  np.testing.assert_allclose(x[:, 4:], (option + 0.5) / OPTIONS)
  return sphere(x, items) - 0.1 * (option != [2, 0]).sum(1, keepdims=True)


def both(x, items):
  return np.concatenate([sphere(x, items), sphere(1 - x, items)], 1)


FUNCTIONS = {'sphere': sphere, 'typed': typed, 'both': both}


@functools.cache
def ran(peer, name, seed=0, rungs=None):
  """x, items and values of all that a peer asked for, and its starts."""
  rungs = rungs or (RUNGS if peer in ('smac', 'parego') else RUNGS[-1:])
  choices = np.array([0, 0, 0, 0, *(OPTIONS if name == 'typed' else ())], int)
  draw = np.random.default_rng(5)
  starts = draw.uniform(size=(4, len(choices)))
  if name == 'typed':
    starts[:, 4:] = (np.array([[0, 1], [1, 1], [3, 2], [0, 2]]) + 0.5) / OPTIONS
  number = 2 if name == 'both' else 1
  problem = Problem(choices, starts, rungs, number, 6, 0.15, float(BUDGET))
  asked, spent = [], 0.0

  def score(x, items):
    nonlocal spent
    if spent >= BUDGET:
      return None
    spent += len(x) * items / rungs[-1]
    values = FUNCTIONS[name](x, items)
    asked.extend(
      (row, items, value) for row, value in zip(x, values, strict=True)
    )
    return values

  peers.run(peer, problem, score, seed)
  x, items, values = map(np.array, zip(*asked, strict=True))
  return x, items, values, starts


@pytest.mark.parametrize('name', ['sphere', 'typed'])
@pytest.mark.parametrize('peer', SINGLE)
def test_peer_starts_at_the_starts_and_improves(peer, name):
  x, items, values, starts = ran(peer, name)
  np.testing.assert_allclose(x[: len(starts)], starts, atol=1e-9)
  full = items == items.max()
  of_starts = FUNCTIONS[name](starts, RUNGS[-1]).max()
  assert values[full].max() > of_starts + 0.005
  assert ((x >= 0) & (x <= 1)).all()


def test_smac_asks_for_these_rungs_in_the_order_of_hyperband():
  _, items, _, _ = ran('smac', 'sphere')
  round_of = [22] * 9 + [67] * 3 + [200] + [67] * 5 + [200] + [200] * 3
  assert items[:22].tolist() == round_of
  assert items[22:44].tolist() == round_of[: len(items) - 22]
  for peer in set(SINGLE) - {'smac'}:
    assert set(ran(peer, 'sphere')[1]) == {200}


def test_smac_promotes_the_best():
  x, _, values, _ = ran('smac', 'sphere')
  best = x[:9][np.argsort(-values[:9, 0])[:3]]
  assert {tuple(row) for row in x[9:12]} == {tuple(row) for row in best}


def test_smac_with_one_rung_asks_for_nothing_twice():
  x, items, _, _ = ran('smac', 'sphere', rungs=(1,))
  assert set(items) == {1}
  assert len(x) == BUDGET == len(np.unique(x, axis=0))


def test_rungs_that_are_not_hyperbands_are_refused():
  with pytest.raises(RuntimeError, match=r'expected \[67, 200\]'):
    ran('smac', 'sphere', rungs=(50, 200))


@pytest.mark.parametrize('peer', ['parego', 'pymoo', 'random'])
def test_front_has_points_that_no_start_matches(peer):
  x, items, values, starts = ran(peer, 'both')
  np.testing.assert_allclose(x[: len(starts)], starts, atol=1e-9)
  full = values[items == items.max()]
  begun = both(starts, RUNGS[-1])
  matched = (begun[None] >= full[:, None]).all(-1).any(1)
  assert (~matched).sum() >= 3
  assert full.sum(1).max() > begun.sum(1).max()


@pytest.mark.parametrize('peer', [*SINGLE, 'parego'])
def test_seed_decides(peer):
  name = 'both' if peer == 'parego' else 'typed'
  one = ran(peer, name)
  ran.cache_clear()
  again, other = ran(peer, name), ran(peer, name, seed=1)
  np.testing.assert_array_equal(one[0], again[0])
  np.testing.assert_array_equal(one[1], again[1])
  shared = min(len(one[0]), len(other[0]))
  assert (one[0][4:shared] != other[0][4:shared]).any()


def test_what_failed_costs_one():
  """CMA-ES leaves where everything fails."""
  asked = []

  def score(x, items):
    if len(asked) >= 60:
      return None
    asked.extend(x)
    return np.where(x[:, :1] > 0.5, np.nan, 0.5)

  starts = np.array([[0.6, 0.5], [0.45, 0.5]])
  problem = Problem(np.zeros(2, int), starts, (1,), 1, 6, 0.15, 60.0)
  peers.run('pycma', problem, score, 3)
  assert (np.array(asked[-12:])[:, 0] < 0.5).mean() > 0.7
