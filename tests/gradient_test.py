"""Gradient steps on coefficients: right, fairly weighted, in bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.merging import mixed, registry, resident
from automerge_jax.search import evaluate, gradient, soft
from automerge_jax.search import job as jobs
from automerge_jax.spaces import cells, depthwise, fusion, layerwise
from automerge_jax.tasks import kinds, splits
from tests import tiny_suite

EQUAL = np.full(3, 1 / 3, np.float32)


@pytest.fixture(scope='module')
def problem(tiny):
  settings = tiny_suite.settings(tiny)
  job = jobs.load(settings)
  items = job.items({t: splits.search_items(t, 40) for t in settings.tasks})
  items = tiny_suite.of_one_length(items)

  @functools.cache
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
  share = np.asarray(data.share)[slots]
  task = np.concatenate([np.ravel(part.task) for part in data.data])
  real = slots < len(items)
  assert sorted(slots[real]) == list(range(len(items)))
  assert (share[~real] == 0).all()
  for t in range(len(items.tasks)):
    np.testing.assert_allclose(share[real & (task == t)].sum() / 4, 1, 1e-5)
  assert (items.task[slots[real]] == task[real]).all()
  np.testing.assert_array_equal(data.task[:-1], items.task)


@pytest.mark.parametrize('name', ['task_arithmetic', 'linear'])
def test_gradient_is_the_slope(problem, name):
  """Every objective, by central differences along a direction."""
  job, items, build = problem
  method, space, stack = build(name)
  own = [0, 1, None]
  targets = soft.targets(job.family, method, stack, job.heads, items, own)
  data = gradient.batches(items, 1, targets)
  names = soft.OBJECTIVES if name == 'linear' else soft.OBJECTIVES[:1]
  rises = [
    gradient.ascent(job.family, method, space, name, item_sets=2)
    for name in names
  ]

  @jax.jit
  def values(x, stack, data):
    found = [r.value(x, stack, job.heads, data, EQUAL) for r in rises]
    return jnp.stack(found)

  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.uniform(0.3, 0.7, len(space.names)), jnp.float32)
  slopes = jax.jit(jax.jacrev(values))(x, stack, data)
  assert bool(jnp.isfinite(slopes).all())
  assert float(jnp.abs(slopes).max(axis=1).min()) > 1e-4
  # Upwards in every dimension: the grid of coefficients rounds each, and the
  # slopes of a direction that leads nowhere would be lost in that.
  direction = np.sign(slopes[0]) * rng.uniform(0.5, 2, len(x))
  direction = direction.astype(np.float32)
  step = 0.005
  up, down = (values(x + s * direction, stack, data) for s in (step, -step))
  np.testing.assert_allclose(
    (up - down) / (2 * step), slopes @ direction, rtol=0.05, atol=2e-4
  )


def test_slerp_scores_have_a_slope(problem):
  """They choose the pair too; the step is too short to choose another."""
  _, _, build = problem
  _, space, _ = build('slerp')
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.uniform(0.3, 0.7, len(space.names)), jnp.float32)
  weights = rng.normal(size=2).astype(np.float32)

  @jax.jit
  def value(x):
    plan = space.decode(space.quantise(x))
    return weights @ plan['layers/attention/query/kernel']['t']

  slope = jax.grad(value)(x)
  direction = rng.normal(size=len(x)).astype(np.float32)
  up, down = value(x + 0.01 * direction), value(x - 0.01 * direction)
  np.testing.assert_allclose((up - down) / 0.02, slope @ direction, 0.02)


def _held(name, coefficients, facts, base, stack):
  """The merge in float64, as a function of weights: masks and signs stay."""
  base, stack = np.float64(base), np.float64(stack)
  weights = np.float64(coefficients['weight'])
  at = np.rint(coefficients['density'] * 1000).astype(int)
  scale = np.take_along_axis(np.asarray(facts['scale']), at[:, None], 1)[:, 0]
  kept = np.asarray(facts['level']) < at[:, None, None]
  entries = stack * scale[:, None, None] * kept
  counts = kept
  if name in ('ties', 'dare_ties', 'della'):
    total = np.tensordot(weights, entries, 1)
    counts = kept & ((weights[:, None, None] * entries >= 0) == (total >= 0))

  def merged(weights):
    mixed = np.tensordot(weights, entries * counts, 1)
    if coefficients['normalize'] > 0:
      divisor = np.tensordot(weights, np.float64(counts), 1)
      if counts is kept:
        divisor = weights.sum()
      mixed = mixed / np.where(divisor == 0, 1, divisor)
    return base + mixed

  return merged, weights


@pytest.mark.parametrize(
  'name', ['ties', 'dare_linear', 'dare_ties', 'della', 'della_linear']
)
def test_masks_and_signs_are_held_fixed(problem, name):
  """Against central differences of a merge that does hold them."""
  _, _, build = problem
  method, space, stack = build(name)
  path = 'layers/attention/query/kernel'
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.uniform(0.2, 0.8, len(space.names)), jnp.float32)
  plan = space.decode(space.quantise(x))[path]
  own = [p.name for p in method.parameters if p.per_expert]
  layer = 1
  coefficients = {
    n: v[:, layer] if n in own else v[layer] for n, v in plan.items()
  }
  lead = {f.name: f.lead if f.elementwise else 0 for f in method.facts}
  facts = {
    n: jnp.take(v, layer, axis=lead[n]) for n, v in stack.facts[path].items()
  }
  leaf = ('attention', 'query', 'kernel')
  at = functools.reduce(lambda tree, key: tree[key], leaf, stack.base['layers'])
  deltas = functools.reduce(
    lambda tree, key: tree[key], leaf, stack.stack['layers']
  )
  base, deltas = at[layer], deltas[:, layer]
  cotangent = rng.normal(size=base.shape)
  expected, weights = _held(name, coefficients, facts, base, deltas)
  np.testing.assert_allclose(
    method.merge(coefficients, facts, base, deltas),
    expected(weights),
    atol=1e-5,
  )

  def value(weight, density):
    told = coefficients | {'weight': weight, 'density': density}
    return jnp.sum(
      jnp.asarray(cotangent, jnp.float32)
      * method.merge(told, facts, base, deltas)
    )

  slope, of_density = jax.jit(jax.grad(value, (0, 1)))(
    coefficients['weight'], coefficients['density']
  )
  for k in range(len(weights)):
    step = 1e-6 * np.eye(len(weights))[k]
    up, down = expected(weights + step), expected(weights - step)
    want = np.sum(cotangent * (up - down)) / 2e-6
    np.testing.assert_allclose(slope[k], want, rtol=1e-3, atol=1e-3)
  np.testing.assert_array_equal(of_density, 0)


def test_only_coefficients_may_move(problem):
  job, _, build = problem
  _, space, _ = build('ties')
  named = dict(zip(space.names, gradient.movable(space), strict=True))
  assert {n.split('/')[0] for n, free in named.items() if free} == {'weight'}
  assert {n.split('/')[0] for n, free in named.items() if not free} == {
    'density'
  }
  experts = tiny_suite.TASKS
  typed = layerwise.space(
    [registry.get(n) for n in ('ties', 'task_arithmetic', 'slerp')],
    cells.layered(job.family, 1, 'own'),
    experts,
    'base',
  )
  found = {
    name.split('/')[0]
    for name, free in zip(typed.names, gradient.movable(typed), strict=True)
    if free
  }
  assert found == {'ties.weight', 'task_arithmetic.weight', 'slerp.t'}
  stacked = depthwise.space(
    job.family, experts, 'base', min_layers=1, max_layers=3
  )
  assert not gradient.movable(stacked).any()
  with pytest.raises(ValueError, match='set gradient_steps to 0'):
    gradient.ascent(job.family, build('ties')[0], stacked, 'accuracy')
  with pytest.raises(ValueError, match="objective is 'hinge'; expected one"):
    gradient.ascent(job.family, build('ties')[0], space, 'hinge')


def test_ascent_rises_in_the_box_and_what_stays_stays(problem):
  job, items, build = problem
  method, space, stack = build('ties')
  data = gradient.batches(items, 1)
  rise = gradient.ascent(job.family, method, space, 'log_likelihood')
  start = space.quantise(jnp.full(len(space.names), 0.1))
  state = rise.init(start)
  values = []
  for i in range(25):
    state, value = rise.step(
      i, np.float32(0.05), state, stack, job.heads, data, EQUAL
    )
    values.append(float(value))
  assert values[-1] > values[0] + 0.02
  assert float(state.x.min()) >= 0 and float(state.x.max()) <= 1
  free = gradient.movable(space)
  found = np.asarray(rise.c(state.x))
  np.testing.assert_array_equal(found[~free], np.asarray(start)[~free])
  assert (found[free] != np.asarray(start)[free]).all()


def test_inactive_dimensions_and_choices_stay(problem):
  """Of a mixture, the weights of the method that a group did not choose."""
  job, _, _ = problem
  methods = [registry.get(n) for n in ('linear', 'task_arithmetic')]
  space = layerwise.space(
    methods, cells.layered(job.family, 2, 'own'), tiny_suite.TASKS, 'base'
  )
  rise = gradient.ascent(job.family, mixed.of(methods), space, 'accuracy')
  x = jnp.full(len(space.names), 0.3)
  for i, name in enumerate(space.names):
    if name == 'method/all/0-2/all':
      x = x.at[i].set(0.9)
  moves = np.asarray(rise.init(space.quantise(x)).moves)
  by_group = {
    (name.split('/')[0], name.split('/')[2])
    for name, free in zip(space.names, moves, strict=True)
    if free
  }
  assert by_group == {
    ('task_arithmetic.weight', '0-2'),
    ('linear.weight', 'all'),
  }


def test_task_weights_choose_what_is_climbed(problem):
  job, items, build = problem
  method, space, stack = build('task_arithmetic')
  data = gradient.batches(items, 2)
  rise = gradient.ascent(job.family, method, space, 'log_likelihood')
  x = jnp.full(len(space.names), 0.3)
  params = jax.jit(
    lambda x, stack: resident.merge(
      method, space.decode(space.quantise(x)), stack
    )
  )(x, stack)
  run = evaluate.scorer(job.family)
  scores = run(params, job.heads, kinds.arrays(items), len(items))
  scores = np.asarray(scores.log_likelihood)
  by_task = [scores[items.task == t].mean() for t in range(3)]
  for weights in (np.eye(3)[1], np.asarray([0.2, 0.5, 0.3])):
    value = rise.value(x, stack, job.heads, data, np.float32(weights))
    np.testing.assert_allclose(value, weights @ by_task, rtol=1e-4)


def test_shrinkage_pulls_to_the_mean_of_expert_and_layer(problem):
  _, _, build = problem
  _, space, _ = build('task_arithmetic')
  rng = np.random.default_rng(0)
  x = rng.uniform(size=len(space.names)).astype(np.float32)
  moves = np.ones(len(x), bool)
  moves[5] = False
  owners = np.asarray([name.rpartition('/')[0] for name in space.names])
  group = np.unique(owners, return_inverse=True)[1]
  want = x.copy()
  for owner in set(owners):
    mine = (owners == owner) & moves
    mean = x[mine].mean()
    # The minimum of (x' - x)² / 2 + 0.5 (x' - mean)² / 2.
    want[mine] = (x[mine] + 0.5 * mean) / 1.5
  found = gradient.shrunk(jnp.asarray(x), jnp.asarray(moves), group, 0.5)
  np.testing.assert_allclose(found, want, rtol=1e-5)
  assert found[5] == x[5]
  np.testing.assert_array_equal(
    gradient.shrunk(jnp.asarray(x), jnp.asarray(moves), group, 0.0), x
  )


def test_shrinkage_acts_in_steps(problem):
  job, items, build = problem
  method, space, stack = build('task_arithmetic')
  data = gradient.batches(items, 1)
  owners = np.asarray([name.rpartition('/')[0] for name in space.names])
  spread = []
  for shrinkage in (0.0, 20.0):
    rise = gradient.ascent(
      job.family, method, space, 'log_likelihood', shrinkage
    )
    state = rise.init(space.quantise(jnp.full(len(space.names), 0.4)))
    for i in range(6):
      state, _ = rise.step(
        i, np.float32(0.05), state, stack, job.heads, data, EQUAL
      )
    x = np.asarray(state.x)
    spread.append(np.mean([x[owners == o].std() for o in set(owners)]))
  assert spread[1] < 0.5 * spread[0]
