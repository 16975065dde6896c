"""Optimizers' contract: exact by seed, fed by order, traced once, any space."""

import functools

import jax
import jax.numpy as jnp
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

P, G = 6, 5
PROBLEM = problems.conditional(2, 1, 3)
D = len(PROBLEM.space.names)
FACTORIES = {
  'cma_es': cma_es,
  'cma_es_large': cma_es_large,
  'nsga2': nsga2,
  'gp_bo': functools.partial(gp_bo, steps=4, candidates=40),
  'mixed': mixed,
  'random_search': random_search,
}


@functools.cache
def build(name):
  return FACTORIES[name](P, PROBLEM.space)


@functools.cache
def searched(name):
  """`loss, key -> c [G P, D]`, compiled once an optimizer."""

  optimizer = build(name)  # outside of what is traced

  def run(sign, key):
    problem = PROBLEM._replace(loss=lambda c: sign * PROBLEM.loss(c))
    c, loss = problems.search(optimizer, problem, P, G, key, spare=7)
    return c.reshape(-1, D), loss.ravel()

  return jax.jit(run)


every = pytest.mark.parametrize('name', FACTORIES)


@every
def test_searches_are_exact_by_seed(name):
  one, _ = searched(name)(1.0, jax.random.key(3))
  same, _ = searched(name)(1.0, jax.random.key(3))
  other, _ = searched(name)(1.0, jax.random.key(4))
  np.testing.assert_array_equal(one, same)
  assert not np.array_equal(one, other)


@every
def test_only_the_order_of_scores_counts_and_it_does(name):
  one, _ = searched(name)(1.0, jax.random.key(3))
  scaled, _ = searched(name)(8.0, jax.random.key(3))
  turned, _ = searched(name)(-1.0, jax.random.key(3))
  np.testing.assert_array_equal(one, scaled)
  assert np.array_equal(one, turned) == (name == 'random_search')


@every
def test_constant_scores_and_empty_rows_break_nothing(name):
  c, _ = searched(name)(0.0, jax.random.key(0))
  c = np.asarray(c)
  assert np.isfinite(c).all() and len(np.unique(c, axis=0)) > P
  optimizer = build(name)
  told = Told(
    jnp.full((P * G + 7, D), 0.5, float),
    jnp.full(P * G + 7, -jnp.inf, float),
    jnp.arange(P),
    jnp.full((P, D), 0.5, float),
  )
  state = optimizer.init(jax.random.key(0), told)
  for g in range(3):  # nothing that was asked for could be scored
    x = np.asarray(optimizer.ask(jax.random.key(g), state))
    assert x.shape == (P, D) and x.min() >= 0 and x.max() <= 1
    told = told._replace(x=told.x.at[:P].set(x), asked=jnp.asarray(x))
    state = optimizer.tell(jax.random.key(g), told, state)


@every
def test_each_function_is_traced_once(name):
  traces = []
  space = PROBLEM.space
  counted = space._replace(
    quantise=lambda x: traces.append(0) or space.quantise(x)
  )
  optimizer = FACTORIES[name](P, counted)
  told = Told(
    jnp.full((P * G, D), 0.5, float),
    jnp.full(P * G, -jnp.inf, float),
    jnp.arange(P),
    jnp.full((P, D), 0.5, float),
  )
  state = optimizer.init(jax.random.key(0), told)
  before = None
  for g in range(3):
    x = optimizer.ask(jax.random.key(g), state)
    rows = g * P + jnp.arange(P)
    told = Told(
      told.x.at[rows].set(x), told.scores.at[rows].set(x.sum(-1)), rows, x
    )
    state = optimizer.tell(jax.random.key(g), told, state)
    if g:
      assert len(traces) == before
    before = len(traces)
  assert optimizer.init._cache_size() == 1
  assert optimizer.ask._cache_size() == optimizer.tell._cache_size() == 1


@every
def test_asking_changes_nothing_and_other_keys_ask_for_others(name):
  told = Told(
    jnp.full((P * G + 7, D), 0.5, float),
    jnp.full(P * G + 7, -jnp.inf, float),
    jnp.arange(P),
    jnp.full((P, D), 0.5, float),
  )
  optimizer = build(name)
  state = optimizer.init(jax.random.key(0), told)
  first, other, again = [
    np.asarray(optimizer.ask(jax.random.key(key), state)) for key in (1, 2, 1)
  ]
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize('name', ['cma_es', 'cma_es_large', 'mixed'])
def test_a_moved_distribution_is_centred_where_it_was_moved_to(name):
  """Its spread stays, and so does what else it learned."""
  space = problems.typed([0] * 5)
  optimizer = FACTORIES[name](12, space, std=0.05)  # so that none is clipped
  x = jnp.full((12, 5), 0.5)
  told = Told(x, jnp.zeros(12), jnp.arange(12), x)
  state = optimizer.init(jax.random.key(0), told)
  for g in range(4):
    x = optimizer.ask(jax.random.key(g), state)
    told = Told(x, x[:, 0], jnp.arange(12), x)
    state = optimizer.tell(jax.random.key(g), told, state)
  to = jnp.asarray([0.5, 0.4, 0.6, 0.45, 0.55])
  moved = optimizer.move(to, state)
  np.testing.assert_array_equal(optimizer.mean(moved), to)
  assert np.abs(optimizer.mean(state) - to).max() > 0.05
  keys = jax.random.split(jax.random.key(1), 60)
  drawn = np.concatenate([optimizer.ask(key, moved) for key in keys])
  before = np.concatenate([optimizer.ask(key, state) for key in keys])
  np.testing.assert_allclose(drawn.mean(0), to, atol=0.03)
  np.testing.assert_allclose(
    drawn[:, 1:].std(0), before[:, 1:].std(0), rtol=0.1
  )
  on = optimizer.tell(jax.random.key(9), told, moved)
  assert jax.tree.structure(on) == jax.tree.structure(state)


def test_mixed_has_a_mean_and_moves_its_options():
  space = problems.typed([3, 0, 4, 1])
  x = jnp.asarray([[0.5, 0.3, 0.125, 0.5]] * 8)
  told = Told(x, jnp.zeros(8), jnp.arange(8), x)
  optimizer = mixed(8, space, trust=0.7)
  state = optimizer.init(jax.random.key(0), told)
  np.testing.assert_allclose(optimizer.mean(state), x[0], atol=1e-6)
  to = jnp.asarray([0.9, 0.6, 0.125, 0.2])
  moved = optimizer.move(to, state)
  found = np.asarray(space.quantise(optimizer.mean(moved)))
  np.testing.assert_allclose(found, [2, 0.6, 0, 0], atol=1e-6)
  chances = np.asarray(moved.chances)
  np.testing.assert_allclose(chances.sum(1), 1, atol=1e-5)
  assert 0.7 < chances[0, 2] < 0.85
  # What had this chance already keeps it, and so do the odds of the rest.
  np.testing.assert_allclose(chances[1], state.chances[1], atol=1e-5)
  again = optimizer.move(to, moved)
  np.testing.assert_allclose(again.chances, chances, atol=0.03)


def test_what_does_not_count_drifts_as_it_was_asked_for():
  """The rows may hold constants there; learned is what was asked for."""
  space = problems.typed([0, 0], active=lambda c: jnp.asarray([True, False]))
  optimizer = mixed(8, space)
  x = jnp.full((8, 2), 0.5)
  state = optimizer.init(
    jax.random.key(0), Told(x, jnp.zeros(8), jnp.arange(8), x)
  )
  asked = optimizer.ask(jax.random.key(1), state)
  flat = asked.at[:, 1].set(0.0)
  told = Told(flat, asked[:, 0], jnp.arange(8), asked)
  one = optimizer.tell(jax.random.key(2), told, state)
  other = optimizer.tell(jax.random.key(2), told._replace(x=asked), state)
  np.testing.assert_array_equal(optimizer.mean(one), optimizer.mean(other))
  lost = optimizer.tell(jax.random.key(2), told._replace(asked=flat), state)
  assert optimizer.mean(lost)[1] < optimizer.mean(one)[1] - 0.1


@every
def test_optima_on_edges_are_kept(name):
  """And searches go on: no step explodes, nothing leaves the box."""
  num_dims = 5
  space = problems.typed([0] * num_dims)
  outside = jnp.asarray([1.3, -0.2, 0.4, 1.0, 0.0])
  problem = problems.Problem(
    space, lambda c: jnp.sum((c - outside) ** 2), np.clip(outside, 0, 1)
  )
  generations = 8 if name == 'gp_bo' else 60
  optimizer = FACTORIES[name](8, space)
  run = jax.jit(
    lambda key: problems.search(optimizer, problem, 8, generations, key)
  )
  c, loss = map(np.asarray, run(jax.random.key(1)))
  assert c.min() >= 0 and c.max() <= 1
  lost = loss - loss.min() if name == 'random_search' else loss - 0.13
  reached = {'gp_bo': 0.3, 'nsga2': 2e-3, 'random_search': 0.0}
  assert lost.min() <= reached.get(name, 1e-4)
  if name in ('cma_es', 'cma_es_large', 'mixed'):
    assert lost[-5:].max() < 1e-3


def test_first_proposals_follow_the_prior_around_the_best_start():
  """Correlated dimensions move together, by `std`."""
  prior = np.eye(4)
  prior[0, 1] = prior[1, 0] = 0.95
  space = problems.typed([0] * 4, correlation=prior)
  x = jnp.full((20, 4), 0.5).at[3].set(jnp.asarray([0.5, 0.4, 0.6, 0.5]))
  scores = jnp.full(20, -jnp.inf).at[2].set(0.0).at[3].set(1.0)
  keys = jax.random.split(jax.random.key(1), 60)
  for factory in (cma_es, mixed):
    optimizer = factory(12, space)
    told = Told(x, scores, jnp.arange(12), x[:12])
    state = optimizer.init(jax.random.key(0), told)
    drawn = np.concatenate([optimizer.ask(key, state) for key in keys])
    np.testing.assert_allclose(np.corrcoef(drawn.T), prior, atol=0.12)
    np.testing.assert_allclose(drawn.std(0), 0.15, atol=0.02)
    np.testing.assert_allclose(drawn.mean(0), x[3], atol=0.02)


def test_mixed_trusts_the_best_start_and_loses_no_option():
  space = problems.typed([3, 0, 4])
  told = Told(
    jnp.asarray([[0.5, 0.5, 0.125]] * 10),
    jnp.full(10, -jnp.inf).at[0].set(0.0),
    jnp.arange(8),
    jnp.full((8, 3), 0.5),
  )
  optimizer = mixed(8, space, trust=0.7)
  state = optimizer.init(jax.random.key(0), told)
  best = np.asarray(state.chances)[[0, 1], [1, 0]]
  assert (best >= 0.7).all() and (best < 0.85).all()
  for g in range(40):  # nothing but the first option is ever good
    x = optimizer.ask(jax.random.key(g), state)
    score = -x[:, 0] - x[:, 2]
    told = Told(
      told.x.at[:8].set(x), told.scores.at[:8].set(score), jnp.arange(8), x
    )
    state = optimizer.tell(jax.random.key(g), told, state)
  chances = np.asarray(state.chances)
  np.testing.assert_allclose(chances.sum(1), 1, atol=1e-5)
  assert (chances[:, 0] > 0.75).all()
  margin = (1 - 0.73**0.5) / np.array([2, 3])
  assert (chances[0, :3] >= margin[0] - 1e-6).all()
  assert (chances[1] >= margin[1] - 1e-6).all() and chances[0, 3] == 0


def test_spaces_of_categories_alone_are_searched():
  space = problems.typed([4] * 6)
  problem = problems.Problem(
    space, lambda c: (c != jnp.arange(6) % 4).sum() * 1.0, np.arange(6) % 4
  )
  for name in ('mixed', 'nsga2'):
    lost = problems.best_losses(FACTORIES[name](8, space), problem, 8, 40)
    assert (lost == 0).all(), (name, lost)


def test_nsga2_asks_for_nothing_twice():
  """Neither for the same recipe nor for one that differs where none looks."""
  space = problems.typed(
    [2, 3, 4, 3],
    active=lambda c: jnp.concatenate([jnp.ones(3, bool), c[:1] > 0]),
  )
  problem = problems.Problem(
    space, lambda c: c.sum() + 0.1 * c[1] * c[2], np.zeros(4)
  )
  run = jax.jit(
    lambda key: problems.search(nsga2(6, space), problem, 6, 6, key)[0]
  )
  c = np.array(run(jax.random.key(0)))
  c[..., 3] = np.where(c[..., 0] > 0, c[..., 3], 0)
  later = c[1:].reshape(-1, 4)
  first = {tuple(row) for row in c[0]}
  assert len(np.unique(later, axis=0)) == len(later) == 30
  assert not first & {tuple(row) for row in later}


def test_nsga2_mutates_what_counts():
  """Every child differs from both parents in what is active."""
  told = Told(
    jnp.tile(PROBLEM.space.encode(jnp.asarray(PROBLEM.best))[None], (P, 1)),
    jnp.zeros(P),
    jnp.arange(P),
    jnp.zeros((P, D)),
  )
  optimizer = nsga2(P, PROBLEM.space)
  x = optimizer.ask(jax.random.key(0), optimizer.init(jax.random.key(0), told))
  c = np.asarray(jax.vmap(PROBLEM.space.quantise)(x))
  active = np.asarray(jax.vmap(PROBLEM.space.active)(jnp.asarray(c)))
  at = np.asarray(jax.vmap(PROBLEM.space.quantise)(told.x))
  assert ((c != at) & active).any(1).all()


def test_bins_of_random_search_are_equally_frequent():
  space = problems.typed([3, 0, 5])
  search = random_search(600, space)
  told = Told(
    jnp.zeros((1, 3)), jnp.zeros(1), jnp.zeros(600, int), jnp.zeros((600, 3))
  )
  x = search.ask(jax.random.key(0), search.init(jax.random.key(0), told))
  c = np.asarray(jax.vmap(space.quantise)(x))
  for column, options in ((0, 3), (2, 5)):
    share = np.bincount(c[:, column].astype(int), minlength=options) / 600
    np.testing.assert_allclose(share, 1 / options, atol=0.05)
  np.testing.assert_allclose(c[:, 1].mean(), 0.5, atol=0.04)
  np.testing.assert_allclose(c[:, 1].var(), 1 / 12, atol=0.01)


@pytest.mark.parametrize(
  ('factory', 'options', 'said'),
  [
    (cma_es, {'population': 3}, 'at least 4'),
    (cma_es_large, {'population': 3}, 'at least 4'),
    (mixed, {'population': 3}, 'at least 4'),
    (mixed, {'population': 8, 'trust': 1.5}, 'from 0 to 1'),
    (nsga2, {'population': 1}, 'at least 2'),
  ],
)
def test_what_cannot_work_is_refused(factory, options, said):
  with pytest.raises(ValueError, match=said):
    factory(space=PROBLEM.space, **options)
