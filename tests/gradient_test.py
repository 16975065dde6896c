"""Gradient steps on coefficients: right, fairly weighted, upwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.merging import registry, resident
from automerge_jax.search import evaluate, gradient
from automerge_jax.search import job as jobs
from automerge_jax.spaces import cells, fusion
from automerge_jax.tasks import kinds, splits
from tests import tiny_suite


@pytest.fixture(scope='module')
def problem(tiny):
  settings = tiny_suite.settings(tiny)
  job = jobs.load(settings)
  items = job.items({t: splits.search_items(t, 40) for t in settings.tasks})

  def build(name):
    method = registry.get(name)
    experts = [job.tensors(task) for task in settings.tasks]
    stack = resident.build(method, job.family, job.tensors('base'), experts)
    space = fusion.space(
      method, cells.layered(job.family), settings.tasks, 'base'
    )
    return method, space, stack

  return job, items, build


def test_batches_hold_every_item_once_and_tasks_weigh_the_same(problem):
  _job, items, _ = problem
  data = gradient.batches(items, 4)
  slots = np.concatenate([np.ravel(part.slot) for part in data.data])
  weights = np.asarray(data.weights)[slots]
  task = np.concatenate([np.ravel(part.task) for part in data.data])
  real = slots < len(items)
  assert sorted(slots[real]) == list(range(len(items)))
  assert (weights[~real] == 0).all()
  for t in range(len(items.tasks)):
    total = weights[real & (task == t)].sum() / 4
    np.testing.assert_allclose(total, 1 / len(items.tasks), rtol=1e-5)
  by_slot = dict(zip(slots[real], task[real], strict=True))
  assert all(items.task[slot] == t for slot, t in by_slot.items())


@pytest.mark.parametrize('objective', ['log_likelihood', 'accuracy'])
@pytest.mark.parametrize('name', ['task_arithmetic', 'linear', 'ties', 'slerp'])
def test_gradient_is_the_slope(problem, name, objective):
  """Central differences along a random direction; finite for every method.

  TIES is only asked to be finite: elected signs jump with the weights, and its
  gradient is that of fixed signs. SLERP's scores also choose the pair.
  """
  job, items, build = problem
  method, space, stack = build(name)
  data = kinds.arrays(items)

  def value(x):
    params = resident.merge(method, space.decode(space.quantise(x)), stack)
    model = job.family, params
    scores = evaluate.score(lambda part: model, job.heads, data, len(items))
    return gradient.soft(scores, objective).mean()

  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.uniform(0.3, 0.7, len(space.names)), jnp.float32)
  slope = jax.jit(jax.grad(value))(x)
  assert bool(jnp.isfinite(slope).all())
  if name in ('ties', 'slerp'):
    return
  assert float(jnp.abs(slope).max()) > 0
  direction = rng.normal(size=len(x)).astype(np.float32)
  step = 0.005
  compiled = jax.jit(value)
  up, down = compiled(x + step * direction), compiled(x - step * direction)
  measured = float(up - down) / (2 * step)
  np.testing.assert_allclose(
    measured, float(slope @ direction), rtol=0.05, atol=2e-4
  )


def test_ascent_rises_and_stays_in_the_box(problem):
  job, items, build = problem
  method, space, stack = build('task_arithmetic')
  data = gradient.batches(items, 1)
  climb = gradient.ascent(
    job.family, method, space, 'log_likelihood', 0.05, steps=25
  )
  state = climb.init(jnp.full(len(space.names), 0.1))
  values = []
  for i in range(25):
    state, value = climb.step(jnp.asarray(i), state, stack, job.heads, data)
    values.append(float(value))
  x = np.asarray(climb.x(state))
  assert values[-1] > values[0] + 0.02
  assert (x >= 0).all() and (x <= 1).all()
