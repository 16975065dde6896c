"""Optimizers on functions whose optimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.search.optimizers import cma_es, random_search

D = 6
TARGET = jnp.asarray([0.2, 0.35, 0.5, 0.6, 0.7, 0.8])


def sphere(x):
  return -jnp.sum((x - TARGET[None]) ** 2, -1)


def ellipsoid(x):
  scale = 10.0 ** jnp.linspace(0, 4, D)
  return -jnp.sum(scale[None] * (x - TARGET[None]) ** 2, -1)


@pytest.fixture(scope='module')
def cma():
  return cma_es.cma_es(12, D, 0.15)


def _run(optimizer, score, generations, seed=0, correlation=None):
  """The state and every proposal [generations, P, D]."""
  init, loop = jax.random.split(jax.random.key(seed))
  prior = jnp.eye(D) if correlation is None else correlation
  state = optimizer.init(init, jnp.full(D, 0.5), prior)
  asked = []
  for g in range(generations):
    ask_key, tell_key = jax.random.split(jax.random.fold_in(loop, g))
    x, state = optimizer.ask(ask_key, state)
    state = optimizer.tell(tell_key, x, score(x), state)
    asked.append(x)
  return state, np.asarray(jnp.stack(asked))


@pytest.mark.parametrize(
  ('score', 'generations'), [(sphere, 60), (ellipsoid, 200)]
)
def test_cma_es_finds_the_maximum(cma, score, generations):
  state, asked = _run(cma, score, generations)
  np.testing.assert_allclose(cma.mean(state), TARGET, atol=1e-2)
  assert asked.min() >= 0 and asked.max() <= 1


def test_an_optimum_outside_the_box_is_found_at_its_edge(cma):
  """And is not left again, however long the search goes on."""
  outside = jnp.asarray([1.3, -0.2, 0.4, 1.0, 0.0, 2.0])
  state, asked = _run(
    cma, lambda x: -jnp.sum((x - outside[None]) ** 2, -1), 150
  )
  assert asked.min() >= 0 and asked.max() <= 1
  np.testing.assert_allclose(
    cma.mean(state), jnp.clip(outside, 0, 1), atol=0.01
  )
  assert state.std < 0.01


def test_only_the_order_of_scores_counts(cma):
  _, plain = _run(cma, sphere, 15)
  _, ranked = _run(
    cma, lambda x: jnp.argsort(jnp.argsort(sphere(x))).astype(jnp.float32), 15
  )
  np.testing.assert_array_equal(plain, ranked)


def test_equal_seeds_give_equal_proposals(cma):
  _, one = _run(cma, sphere, 5, seed=3)
  _, same = _run(cma, sphere, 5, seed=3)
  _, other = _run(cma, sphere, 5, seed=4)
  np.testing.assert_array_equal(one, same)
  assert not np.array_equal(one[0], other[0])


def test_first_proposals_follow_the_prior(cma):
  """Correlated dimensions move together, by `std` around the mean."""
  prior = np.eye(D)
  prior[0, 1] = prior[1, 0] = 0.95
  state = cma.init(jax.random.key(0), jnp.full(D, 0.5), jnp.asarray(prior))
  keys = jax.random.split(jax.random.key(1), 60)
  x = np.concatenate([cma.ask(key, state)[0] for key in keys])
  np.testing.assert_allclose(np.corrcoef(x.T), prior, atol=0.12)
  np.testing.assert_allclose(x.std(0), 0.15, atol=0.02)


def test_a_population_below_four_is_refused():
  with pytest.raises(ValueError, match='at least 4'):
    cma_es.cma_es(3, D)


def test_random_search_is_uniform_and_learns_nothing():
  search = random_search.random_search(200, D)
  _, one = _run(search, sphere, 4)
  _, other = _run(search, lambda x: -sphere(x), 4)
  np.testing.assert_array_equal(one, other)
  flat = one.reshape(-1, D)
  assert len(np.unique(flat[:, 0])) == len(flat)
  np.testing.assert_allclose(flat.mean(0), 0.5, atol=0.05)
  np.testing.assert_allclose(flat.var(0), 1 / 12, atol=0.01)
  assert search.mean is None
