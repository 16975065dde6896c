"""Uniform random search, the control of every comparison."""

import jax
import jax.numpy as jnp

from automerge_jax.types import Array, Optimizer, SearchSpace, Told


def random_search(population: int, space: SearchSpace) -> Optimizer:
  """Independent uniform proposals on [0, 1]^D; learns nothing.

  Bins of a categorical dimension are equally wide, so its options are equally
  frequent.
  """
  num_dims = len(space.names)

  def init(key: Array, told: Told):
    del key, told
    return {'generation': jnp.zeros((), jnp.int32)}

  def ask(key: Array, state) -> Array:
    del state
    return jax.random.uniform(key, (population, num_dims))

  def tell(key: Array, told: Told, state):
    del key, told
    return {'generation': state['generation'] + 1}

  return Optimizer(jax.jit(init), jax.jit(ask), jax.jit(tell))
