"""CMA-ES (https://arxiv.org/abs/1604.00772), evosax's, as pure functions."""

import evosax.algorithms
import jax
import jax.numpy as jnp

from automerge_jax.types import Array, Optimizer


def cma_es(population: int, num_dims: int, std: float = 0.15) -> Optimizer:
  """CMA-ES on [0, 1]^D whose first covariance is the space's prior.

  Proposals are clipped to the box before they are scored and told, so the
  distribution stays where candidates are. Clipped steps are too short for the
  negative weights of active CMA-ES: at an optimum on an edge these make the
  covariance indefinite and the step size explode, so there are none. Build
  once and reuse: evosax hashes an algorithm by identity, an equal second one
  compiles again.

  Args:
    population: P, at least 4.
    num_dims: D.
    std: initial standard deviation of every dimension.

  Raises:
    ValueError: for a population below 4.
  """
  if population < 4:
    raise ValueError(f'CMA-ES needs a population of at least 4, {population=}')
  algorithm = evosax.algorithms.CMA_ES(
    population_size=population, solution=jnp.zeros(num_dims)
  )
  algorithm.use_negative_weights = False
  params = algorithm.default_params.replace(std_init=jnp.asarray(std))

  def init(key: Array, mean: Array, correlation: Array):
    state = algorithm.init(key, mean, params)
    return state.replace(C=jnp.asarray(correlation, jnp.float32))

  # evosax broadcasts vectors over matrices, which a caller may have forbidden.
  def ask(key: Array, state):
    with jax.numpy_rank_promotion('allow'):
      x, state = algorithm.ask(key, state, params)
    return jnp.clip(x, 0.0, 1.0), state

  def tell(key: Array, x: Array, scores: Array, state):
    with jax.numpy_rank_promotion('allow'):  # and it minimises
      state, _ = algorithm.tell(key, x, -scores, state, params)
    return state

  def mean(state) -> Array:
    return jnp.clip(algorithm.get_mean(state), 0.0, 1.0)

  return Optimizer(init, jax.jit(ask), jax.jit(tell), mean)
