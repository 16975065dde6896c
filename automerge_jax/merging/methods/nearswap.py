"""NearSwap: a step of at most t towards another model, entry by entry.

Source: https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001, as in
mergekit 0.1.5.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from automerge_jax.types import Array, MergeMethod, Parameter


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + s τ with s = t / max(|τ|, 1e-6), within 0 and 1."""
  del facts
  delta = stack[0]
  share = coefficients['t'] / jnp.maximum(jnp.abs(delta), 1e-6)
  return base + jnp.clip(share, 0.0, 1.0) * delta


METHODS = (
  MergeMethod(
    name='nearswap',
    merge=merge,
    parameters=(Parameter('t', None, False, 0.001, 0.02),),
    stack='deltas',
    sources=(1, 1),
  ),
)
