"""Optimizers on functions whose optimum is known, against random search."""

import functools

import jax
import jax.numpy as jnp
import moocore
import numpy as np
import pytest

from automerge_jax.search.optimizers.cma_es import cma_es
from automerge_jax.search.optimizers.cma_es_large import cma_es_large
from automerge_jax.search.optimizers.gp_bo import gp_bo
from automerge_jax.search.optimizers.mixed import mixed
from automerge_jax.search.optimizers.nsga2 import nsga2
from automerge_jax.search.optimizers.random_search import random_search
from automerge_jax.types import Told
from experiments.bench import problems


@functools.cache
def runner(factory, make, arguments, population, generations):
  """`keys, noise -> lowest losses`, compiled once for all noise."""
  problem = make(*arguments)
  optimizer = factory(population, problem.space)

  def one(key, noise):
    return problems.search(
      optimizer, problem, population, generations, key, noise
    )[1].min()

  return jax.jit(
    lambda keys, noise: jax.lax.map(lambda key: one(key, noise), keys)
  )


def reached(factory, *case, seeds=3):
  """Lowest losses of searches; a case ends with its noise, if it has any."""
  noise = case[4] if len(case) > 4 else 0.0
  keys = jax.random.split(jax.random.key(0), seeds)
  return np.asarray(runner(factory, *case[:4])(keys, noise))


def by_chance(*case):
  """Median of the lowest losses of random search."""
  return np.median(reached(random_search, *case, seeds=5))


@pytest.mark.parametrize(
  ('name', 'population', 'generations', 'loss'),
  [
    ('sphere', 12, 100, 1e-6),
    ('ellipsoid', 12, 300, 1e-4),
    ('rosenbrock', 12, 300, 1.0),
    ('sector', 12, 200, 1e-2),
    ('steps', 24, 200, 0.1),  # over half end on a plateau with 12
  ],
)
def test_cma_es_reaches_optima(name, population, generations, loss):
  case = problems.floats, (name, 8), population, generations
  lost = reached(cma_es, *case, seeds=9)  # one in nine fails on some
  assert np.median(lost) <= loss, lost
  assert np.median(lost) * 100 <= by_chance(*case)


def test_cma_es_leaves_most_of_rastrigins_hills_behind():
  case = problems.floats, ('rastrigin', 8), 24, 150
  lost = reached(cma_es, *case)
  assert np.median(lost) <= 15 and np.median(lost) * 3 <= by_chance(*case)


@pytest.mark.parametrize(
  ('name', 'factor'), [('sphere', 300), ('ellipsoid', 20), ('rosenbrock', 2000)]
)
def test_cma_es_large_in_two_hundred_dimensions(name, factor):
  case = problems.floats, (name, 200), 16, 300
  lost = reached(cma_es_large, *case)
  assert np.median(lost) * factor <= by_chance(*case), lost


@pytest.mark.parametrize(
  ('make', 'arguments', 'noise', 'loss', 'factor'),
  [
    (problems.floats, ('sphere', 20), 0.0, 15.0, 5),
    (problems.floats, ('ellipsoid', 10), 0.0, 1800.0, 3),
    (problems.shifted, (5, 4, 4), 0.0, 36.0, 3),
    (problems.shifted, (5, 4, 4), 5.0, 45.0, 2),
    (problems.conditional, (4, 2, 3), 0.0, 16.0, 1.6),
    (problems.conditional, (4, 2, 3), 3.0, 18.0, 1.5),
  ],
)
def test_mixed_with_three_hundred_evaluations(
  make, arguments, noise, loss, factor
):
  case = make, arguments, 12, 25, noise
  lost = reached(mixed, *case, seeds=9)
  assert np.median(lost) <= loss, lost
  assert np.median(lost) * factor <= by_chance(*case)


def test_mixed_finds_every_right_option_beside_floats():
  right = np.arange(6) % 4

  def loss(c):
    wrong = (c[:6] != right).sum()
    return 2.0 * wrong + ((10 * (c[6:] - 0.3)) ** 2).sum()

  problem = problems.Problem(
    problems.typed([4] * 6 + [0] * 6), loss, np.append(right, [0.3] * 6)
  )
  optimizer = mixed(12, problem.space)
  lost = problems.best_losses(optimizer, problem, 12, 80, 5)
  assert (lost < 0.01).all(), lost


@pytest.mark.parametrize(
  ('make', 'arguments', 'noise', 'factor', 'seeds'),
  [
    (problems.floats, ('sphere', 10), 0.0, 1.7, 9),
    (problems.conditional, (3, 1, 3), 0.0, 1.2, 21),  # widely scattered
    (problems.floats, ('sphere', 10), 3.0, 1.5, 9),
  ],
)
def test_gp_bo_with_ninety_evaluations(make, arguments, noise, factor, seeds):
  case = make, arguments, 8, 11, noise
  lost = reached(gp_bo, *case, seeds=seeds)
  assert np.median(lost) * factor <= by_chance(*case), lost


def zdt1(c):
  return c[0], _depth(c) * (1 - jnp.sqrt(c[0] / _depth(c)))


def zdt3(c):
  wave = c[0] / _depth(c) * jnp.sin(10 * jnp.pi * c[0])
  return c[0], _depth(c) * (1 - jnp.sqrt(c[0] / _depth(c)) - wave)


def _depth(c):
  return 1 + 9 * c[1:].mean()


def dtlz2(c):
  radius = 1 + ((c[2:] - 0.5) ** 2).sum()
  a, b = c[0] * jnp.pi / 2, c[1] * jnp.pi / 2
  return (
    radius * jnp.cos(a) * jnp.cos(b),
    radius * jnp.cos(a) * jnp.sin(b),
    radius * jnp.sin(a),
  )


def front_scores(losses, filled):
  """Rank scores [N] of losses [N, M]: by front, then by crowding."""
  count = len(losses)
  both = filled[:, None] & filled[None]
  below = (losses[:, None] <= losses[None]).all(-1)
  above = both & below & (losses[:, None] < losses[None]).any(-1)

  def peel(carry):
    front, level = carry
    left = front < 0
    now = left & ~(above & left[:, None]).any(0)
    return jnp.where(now, level, front), level + 1

  front, _ = jax.lax.while_loop(
    lambda carry: (carry[0] < 0).any(), peel, (jnp.full(count, -1), 0)
  )
  front = jnp.where(filled, front, count)
  crowd = jnp.zeros(count)
  for m in range(losses.shape[1]):
    order = jnp.lexsort((losses[:, m], front))
    value, level = losses[order, m], front[order]
    same = level[1:] == level[:-1]
    step = jnp.where(same, value[1:] - value[:-1], jnp.inf)
    edge = jnp.full(1, jnp.inf)
    gap = jnp.concatenate([edge, step]) + jnp.concatenate([step, edge])
    spread = value.max() - value.min()
    crowd = crowd.at[order].add(jnp.where(spread > 0, gap / spread, 0.0))
  order = jnp.lexsort((crowd, -front))
  rank = jnp.zeros(count).at[order].set(jnp.arange(count, dtype=float))
  return jnp.where(filled, rank, -jnp.inf)


def objectives(optimizer, space, losses, population, generations, key):
  """Losses of all that a search proposes, [G P, M]."""

  def step(carry, g):
    x, values, state = carry
    rows = g * population + jnp.arange(population)
    keys = jax.random.split(jax.random.fold_in(key, g))
    drawn = optimizer.ask(keys[0], state)
    values = values.at[rows].set(jnp.stack(jax.vmap(losses)(drawn), -1))
    x = x.at[rows].set(drawn)
    filled = jnp.arange(len(x)) < (g + 1) * population
    told = Told(x, front_scores(values, filled), rows, drawn)
    return (x, values, optimizer.tell(keys[1], told, state)), None

  num_dims, count = len(space.names), population * generations
  x = jax.random.uniform(key, (population, num_dims))
  first = jnp.stack(jax.vmap(losses)(x), -1)
  x = jnp.full((count, num_dims), 0.5).at[:population].set(x)
  values = jnp.zeros((count, first.shape[-1])).at[:population].set(first)
  filled = jnp.arange(count) < population
  rows = jnp.arange(population)
  told = Told(x, front_scores(values, filled), rows, x[:population])
  state = optimizer.init(key, told)
  (_, values, _), _ = jax.lax.scan(
    step, (x, values, state), jnp.arange(1, generations)
  )
  return values


def _true_front(name):
  t = np.linspace(0, 1, 2001)
  if name == 'zdt1':
    return np.column_stack([t, 1 - np.sqrt(t)])
  if name == 'zdt3':
    return np.column_stack([t, 1 - np.sqrt(t) - t * np.sin(10 * np.pi * t)])
  a, b = np.meshgrid(*[np.linspace(0, np.pi / 2, 60)] * 2)
  return np.column_stack(
    [
      (np.cos(a) * np.cos(b)).ravel(),
      (np.cos(a) * np.sin(b)).ravel(),
      np.sin(a).ravel(),
    ]
  )


@pytest.mark.parametrize(
  ('name', 'losses', 'num_dims', 'generations', 'part'),
  [
    ('zdt1', zdt1, 6, 40, 0.93),
    ('zdt3', zdt3, 6, 40, 0.85),
    ('dtlz2', dtlz2, 6, 30, 0.85),
  ],
)
def test_nsga2_approaches_known_fronts(
  name, losses, num_dims, generations, part
):
  space = problems.typed([0] * num_dims)

  def run(optimizer):
    def one(key):
      return objectives(optimizer, space, losses, 20, generations, key)

    keys = jax.random.split(jax.random.key(1), 3)
    return np.asarray(
      jax.jit(lambda keys: jax.lax.map(one, keys))(keys), np.float64
    )

  def volume(points):
    return moocore.hypervolume(points, ref=np.full(points.shape[1], 1.2))

  found = np.median([volume(points) for points in run(nsga2(20, space))])
  chance = np.median(
    [volume(points) for points in run(random_search(20, space))]
  )
  whole = volume(_true_front(name))
  assert part * whole <= found <= 1.001 * whole
  assert whole - found < 0.65 * (whole - chance)


def test_nsga2_with_a_constant_objective_finds_the_best_of_the_other():
  space = problems.typed([0] * 6)

  def losses(c):
    return ((c - 0.3) ** 2).sum(), 0.0 * c[0]

  found = jax.jit(
    lambda key: objectives(nsga2(12, space), space, losses, 12, 40, key)
  )(jax.random.key(0))
  assert np.asarray(found)[:, 0].min() < 5e-3
