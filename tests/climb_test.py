"""Climbs: the best validation step, costs, one trace, the same every time."""

import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.merging import registry, resident
from automerge_jax.search import climb, gradient, objectives
from automerge_jax.search import job as jobs
from automerge_jax.spaces import cells, fusion
from automerge_jax.tasks import itemset, splits
from tests import tiny_suite

ONE = np.ones(1)
ONE_THIRD = np.full(3, 1 / 3, np.float32)


def _climb(**other):
  chosen = {
    'steps': 16,
    'rate': 0.1,
    'minibatches': 2,
    'objective': 'log_likelihood',
  }
  return climb.Climb(**(chosen | other))


class Line:
  """An ascent along a line by 1 a step, with given validation values."""

  def __init__(self, values, bad=()):
    self.values, self.bad, self.validated, self.rates = values, bad, [], []

  def ascent(self):
    def step(i, rate, state, *given):
      self.rates.append(float(rate))
      if int(i) in self.bad:
        return state, jnp.float32(np.nan)
      return state._replace(x=state.x + 1), jnp.float32(0)

    def value(x, *given):
      self.validated.append(int(x[0]))
      return self.values[int(x[0])]

    return gradient.Ascent(
      lambda c: gradient.State(jnp.asarray(c), jnp.ones(1, bool), None),
      step,
      value,
      lambda x: x,
    )

  def run(self, how, validation=True):
    shares = climb.Shares(None, 'items' if validation else None)
    found = climb.run(
      how, self.ascent(), shares, None, None, np.zeros(1, 'f4'), ONE
    )
    return {name: float(c[0]) for name, c in found}


def test_it_ends_at_the_best_validation_step():
  line = Line([0, 0, 1, 2, 5, 2, 7, 2, 6, *[3] * 9])
  found = line.run(_climb(checks=8, patience=9))
  assert line.validated == [0, 2, 4, 6, 8, 10, 12, 14, 16]
  assert found == {
    'gradient:half@8': 8,
    'gradient:late@12': 12,
    'gradient:end@6': 6,
    'gradient:mean@16': 12.5,
  }
  assert climb.steps_made(list(found)) == 16
  np.testing.assert_allclose(line.rates[0], 0.1)
  np.testing.assert_allclose(line.rates[8], 0.05)
  assert line.rates == sorted(line.rates, reverse=True)


def test_patience_ends_it():
  line = Line([0, 0, 9, 0, 8, 0, 9, *[0] * 12])
  found = line.run(_climb(checks=8, patience=2))
  assert line.validated == [0, 2, 4, 6]  # as good is no better
  assert found['gradient:end@2'] == 2
  assert climb.steps_made(list(found)) == 6


def test_the_start_may_be_the_best():
  found = Line([5.0, *[1.0] * 20]).run(_climb(patience=1))
  assert found['gradient:end@0'] == 0


def test_without_validation_it_ends_with_the_last_step():
  line = Line([])
  found = line.run(_climb(), validation=False)
  assert found['gradient:end@16'] == 16 and not line.validated


def test_a_step_that_is_not_finite_ends_it():
  found = Line([], bad=(5,)).run(_climb(), validation=False)
  assert climb.steps_made(list(found)) == 6
  assert found['gradient:end@6'] == 5


def test_costs_are_what_was_run():
  sizes = [40, 40, 20]
  how = _climb(minibatches=4)
  assert climb.cost(how, sizes) == 3 * 16 * 100 / 4
  how = _climb(minibatches=5, validation=0.25, checks=5)
  assert how.between == 4
  for steps, checks in ((None, 5), (16, 5), (6, 2), (8, 3), (15, 4)):
    seen = 3 * (steps or 16) * 75 / 5
    assert climb.cost(how, sizes, steps) == seen + 25 * checks, steps
  how = how._replace(checks=6)  # every 3 steps, and the last
  assert climb.cost(how, sizes) == 3 * 16 * 75 / 5 + 25 * 7


@pytest.mark.parametrize('checks', [3, 5, 8])
@pytest.mark.parametrize('patience', [1, 2, 9])
def test_charged_checks_are_those_that_were_made(checks, patience):
  values = np.random.default_rng(checks).normal(size=20).tolist()
  line = Line(values)
  how = _climb(checks=checks, patience=patience, validation=0.5)
  made = climb.steps_made(list(line.run(how)))
  items = climb.cost(how, [20], made) - climb.COST * made * 10 / 2
  assert items == 10 * len(line.validated)
  assert made == len(line.rates)


def test_weightings_take_turns():
  goals = objectives.read(('a', 'b'), 'accuracy', ('mean', 'a'))
  found = [climb.weighting(goals, turn) for turn in range(4)]
  np.testing.assert_allclose(found[0], [0.75, 0.25])
  np.testing.assert_allclose(found[1], [0.625, 0.375])
  np.testing.assert_allclose(found[2], [0.875, 0.125])
  np.testing.assert_allclose(found[3], found[1])


@pytest.fixture(scope='module')
def problem(tiny):
  settings = tiny_suite.settings(tiny)
  job = jobs.load(settings)
  items = job.items({t: splits.search_items(t, 24) for t in settings.tasks})
  items = tiny_suite.of_one_length(items)
  method = registry.get('task_arithmetic')
  stack = resident.build(
    method,
    job.family,
    job.tensors('base'),
    [job.tensors(task) for task in settings.tasks],
  )
  space = fusion.space(
    method, cells.layered(job.family, 2), settings.tasks, 'base'
  )
  return job, items, method, space, stack


def test_the_split_is_stratified(problem):
  items = problem[1]
  train, validation = climb.split(items, 0.25)
  assert sorted([*train, *validation]) == list(range(len(items)))
  assert (np.bincount(items.task[validation]) == 6).all()
  for task in range(3):
    of_task = items.label[items.task == task]
    held = validation[items.task[validation] == task]
    share = np.bincount(of_task) / 4
    assert (np.abs(np.bincount(items.label[held]) - share) <= 1).all()
  np.testing.assert_array_equal(climb.split(items, 0.25)[1], validation)
  assert not len(climb.split(items, 0.0)[1])
  few = itemset.subset(items, [0, 30, 31, 50, 51])
  with pytest.raises(ValueError, match="'tiny_colour' has 1 search items"):
    climb.split(few, 0.5)


def test_all_climbs_of_a_search_are_one_compilation(problem):
  """From other starts, with other weights; the same again for the same."""
  job, items, method, space, stack = problem
  how = _climb(
    steps=6, objective='experts', validation=0.25, shrinkage=0.5, checks=3
  )
  own = [0, 1, None]
  shares = climb.prepare(how, job.family, method, stack, job.heads, items, own)
  assert climb.cost_of_targets(how, items, own) == 48
  assert climb.cost_of_targets(_climb(), items, own) == 0
  rise = gradient.ascent(
    job.family, method, space, how.objective, how.shrinkage
  )

  def run(x, weights):
    start = space.quantise(jnp.full(len(space.names), x))
    found = climb.run(
      how, rise, shares, stack, job.heads, np.asarray(start), weights
    )
    return start, found

  start, first = run(0.4, np.ones(3))
  _, other = run(0.8, np.asarray([0.2, 0.2, 0.6]))
  _, again = run(0.4, np.ones(3))
  assert len(first) == climb.SNAPSHOTS
  for (name, c), (same, d) in zip(first, again, strict=True):
    assert name == same
    np.testing.assert_array_equal(c, d)
    np.testing.assert_array_equal(c, space.quantise(space.encode(c)))
  assert not np.array_equal(first[0][1], other[0][1])
  at = {name.partition('@')[0]: c for name, c in first}

  def validated(c):
    return float(
      rise.value(
        space.encode(c), stack, job.heads, shares.validation, ONE_THIRD
      )
    )

  assert validated(at['gradient:end']) > validated(start) + 1e-3
  # Another set of items would be a second trace.
  longer = gradient.batches(itemset.subset(items, range(30)), 1)
  with pytest.raises(RuntimeError, match='1 item sets was traced 2 times'):
    rise.value(space.encode(start), stack, job.heads, longer, ONE_THIRD)
