"""Uniform random search, the control of every comparison."""

import jax
import jax.numpy as jnp

from automerge_jax.types import Array, Optimizer


def random_search(population: int, num_dims: int) -> Optimizer:
  """Independent uniform proposals on [0, 1]^D; learns nothing."""

  def init(key: Array, mean: Array, correlation: Array):
    del key, mean, correlation
    return {'generation': jnp.zeros((), jnp.int32)}

  def ask(key: Array, state):
    return jax.random.uniform(key, (population, num_dims)), state

  def tell(key: Array, x: Array, scores: Array, state):
    del key, x, scores
    return {'generation': state['generation'] + 1}

  return Optimizer(init, jax.jit(ask), jax.jit(tell), None)
