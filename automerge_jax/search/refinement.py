"""Climbs within the unit box, of functions whose slopes may be tiny."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array

_STEPS = 40
_SIZES = np.r_[0.0, 0.5 ** np.arange(18)]  # of a step's largest entry


def refined(value: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
  """Climbs from each x [S, D] within [0, 1], by conjugate gradients.

  Directions of Polak and Ribiere; each step takes the best of several sizes, 0
  among them, projected onto the box.

  Args:
    value: `x [Q, D] -> [Q]`.
    x: where to begin.

  Returns:
    x [S, D] and its values [S].
  """
  slope = jax.grad(lambda x: value(x).sum())

  def step(carry, _):
    x, _, direction, before, unit = carry
    ascent = slope(x)
    # The slopes of an acquisition may be too small to be squared.
    largest = jnp.abs(ascent).max(-1, keepdims=True)
    unit = jnp.where(unit > 0, unit, largest)
    ascent = ascent / jnp.where(unit > 0, unit, 1.0)
    held = ((x <= 0) & (ascent < 0)) | ((x >= 1) & (ascent > 0))
    ascent = jnp.where(held, 0.0, ascent)
    turned = (ascent * (ascent - before)).sum(-1, keepdims=True)
    length = (before**2).sum(-1, keepdims=True)
    keep = jnp.maximum(turned / jnp.where(length > 0, length, 1.0), 0.0)
    direction = jnp.where(held, 0.0, ascent + keep * direction)
    upward = (direction * ascent).sum(-1, keepdims=True) > 0
    direction = jnp.where(upward, direction, ascent)
    largest = jnp.abs(direction).max(-1, keepdims=True)
    along = direction / jnp.where(largest > 0, largest, 1.0)
    trials = x[:, None] + _SIZES[None, :, None] * along[:, None]
    trials = jnp.clip(trials, 0.0, 1.0)
    values = value(trials.reshape(-1, x.shape[1])).reshape(len(x), -1)
    at = values.argmax(-1)[:, None]
    best = jnp.take_along_axis(values, at, 1)[:, 0]
    x = jnp.take_along_axis(trials, at[..., None], 1)[:, 0]
    # Where nothing helped, the next step follows the slope alone.
    direction = jnp.where(at > 0, direction, 0.0)
    return (x, best, direction, ascent, unit), None

  nothing = jnp.zeros_like(x)
  start = x, nothing[:, 0], nothing, nothing, nothing[:, :1]
  (x, best, *_), _ = jax.lax.scan(step, start, None, length=_STEPS)
  return x, best
