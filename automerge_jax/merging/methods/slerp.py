"""Spherical interpolation of two models' weights, tensor by tensor."""

from collections.abc import Mapping

import jax.numpy as jnp

from automerge_jax.merging.facts import COSINE
from automerge_jax.types import Array, MergeMethod, Parameter

_PARALLEL = 0.9995  # above this |cosine| the arc is a straight line


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """[sin((1-t)ω) θ₀ + sin(tω) θ₁] / sin ω, linear where nearly parallel.

  θ₀ and θ₁ are the experts at `first` and `second`; ω is the angle between
  them. A tensor of norm below 1e-8 is not normalised.
  """
  del base
  t = coefficients['t']
  first = coefficients['first'].astype(jnp.int32)
  second = coefficients['second'].astype(jnp.int32)
  cosine = facts['cosine'][first, second]
  omega = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
  sine = jnp.sin(omega)
  parallel = jnp.abs(cosine) > _PARALLEL
  safe = jnp.where(parallel, 1.0, sine)
  a = jnp.where(parallel, 1.0 - t, jnp.sin((1.0 - t) * omega) / safe)
  b = jnp.where(parallel, t, jnp.sin(t * omega) / safe)
  return a * stack[first] + b * stack[second]


METHODS = (
  MergeMethod(
    name='slerp',
    merge=merge,
    parameters=(
      Parameter('t', None, False, 0.0, 1.0),
      Parameter('first', 0.0, False),
      Parameter('second', 1.0, False),
    ),
    stack='weights',
    facts=(COSINE,),
    sources=(2, 2),
  ),
)
