"""CMA-ES (https://arxiv.org/abs/1604.00772), evosax's, as pure functions."""

import evosax.algorithms
import jax
import jax.numpy as jnp

from automerge_jax.types import Array, Optimizer, SearchSpace, Told


def cma_es(population: int, space: SearchSpace, std: float = 0.15) -> Optimizer:
  """CMA-ES on [0, 1]^D whose first covariance is the space's prior.

  It starts at the best row told. Proposals are clipped to the box before they
  are scored and told, so the distribution stays where candidates are. Clipped
  steps are too short for the negative weights of active CMA-ES: at an optimum
  on an edge these make the covariance indefinite and the step size explode, so
  there are none. Build once and reuse: evosax hashes an algorithm by identity,
  an equal second one compiles again.

  Args:
    population: P, at least 4.
    space: gives D, the prior correlation and what is categorical.
    std: initial standard deviation of every dimension.

  Raises:
    ValueError: for a population below 4.
  """
  if population < 4:
    raise ValueError(f'CMA-ES needs a population of at least 4, {population=}')
  algorithm = evosax.algorithms.CMA_ES(
    population_size=population, solution=jnp.zeros(len(space.names))
  )
  algorithm.use_negative_weights = False
  params = algorithm.default_params.replace(std_init=jnp.asarray(std))

  def init(key: Array, mean: Array):
    state = algorithm.init(key, mean, params)
    return state.replace(C=jnp.asarray(space.correlation, jnp.float32))

  return from_evosax(algorithm, params, init, space)


def from_evosax(algorithm, params, init, space: SearchSpace) -> Optimizer:
  """A distribution of evosax's as an optimizer.

  Args:
    algorithm: of evosax.
    params: its parameters.
    init: `(key, mean [D]) -> state` of the algorithm.
    space: what is searched.
  """
  floats = jnp.ones(len(space.names), bool)
  if space.choices is not None:
    floats = jnp.asarray(space.choices) == 0

  # evosax broadcasts vectors over matrices, which a caller may have forbidden.
  def start(key: Array, told: Told):
    best = told.x[jnp.argmax(told.scores)]
    with jax.numpy_rank_promotion('allow'):
      return strong(init(key, best))

  def ask(key: Array, state) -> Array:
    with jax.numpy_rank_promotion('allow'):
      x, _ = algorithm.ask(key, state, params)
    return jnp.clip(x, 0.0, 1.0)

  def tell(key: Array, told: Told, state):
    # A category says nothing of where in its bin x was: told its centre, the
    # distribution would shrink onto it.
    x = jnp.where(floats[None], told.x[told.fresh], told.asked)
    worse = jnp.argsort(jnp.argsort(-told.scores[told.fresh]))
    return strong(updated(algorithm, params, key, x, worse, state))

  def mean(state) -> Array:
    return jnp.clip(algorithm.get_mean(state), 0.0, 1.0)

  def move(x: Array, state):
    return state.replace(mean=x)

  return Optimizer(
    jax.jit(start), jax.jit(ask), jax.jit(tell), jax.jit(mean), jax.jit(move)
  )


def updated(algorithm, params, key: Array, x: Array, worse: Array, state):
  """State of a distribution of evosax's that is told x [P, D], 0 the best."""
  with jax.numpy_rank_promotion('allow'):
    # Asking is what decomposes the covariance, which telling relies on.
    _, ready = algorithm.ask(key, state, params)
    state, _ = algorithm.tell(key, x, worse.astype(x.dtype), ready, params)
  return state


def strong(state):
  """A state without Python's weak types, which would be traced twice."""
  return jax.tree.map(
    lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), state
  )
