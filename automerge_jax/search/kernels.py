"""Covariances of Gaussian processes, many at once by matrix products."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import tinygp

from automerge_jax.types import Array

EVERYTHING = -1  # the rung of a mean over all search items


def squares(one: Array, other: Array) -> Array:
  """Squared distances between rows [A, E] and [B, E], [A, B]."""
  square = (one**2).sum(-1)[:, None] + (other**2).sum(-1)[None]
  return jnp.maximum(square - 2 * one @ other.T, 0.0)


def matern(square: Array) -> Array:
  """Matern 5/2 of squared distances."""
  arg = jnp.sqrt(5 * jnp.maximum(square, 1e-10))
  return (1 + arg + arg**2 / 3) * jnp.exp(-arg)


class Matern(tinygp.kernels.Matern52):
  """Matern 5/2 of Euclidean distances between rows [N, E]."""

  def __call__(self, one: Array, other: Array | None = None) -> Array:
    return jnp.ones(len(one)) if other is None else matern(squares(one, other))


class Points(NamedTuple):
  """What a mean over items is known of, or asked for.

  Attributes:
    z: features over their length scales, [N, E].
    rung: whose items the mean is over, int32 [N]; or `EVERYTHING`.
    share: of all search items that the mean is over, in (0, 1], [N].
    real: rows that hold something, bool [N]; others covary with nothing.
  """

  z: Array
  rung: Array
  share: Array
  real: Array


class Nested(tinygp.kernels.Kernel):
  """A function that all items share, plus what is peculiar to some items.

  Rungs add items that no other has, and a race sees some items of a rung before
  others. A mean over a share s of all items is then the function itself plus a
  deviation that varies as smoothly, of relative variance `residual` / s: the
  smaller the subset, the more peculiar. Of two means over items of one rung the
  smaller subset is part of the larger one, so deviations covary by the larger
  share; those of different rungs do not covary; and a mean over everything
  holds every subset. With shares s and r, two rungs correlate by
  1 / sqrt((1 + residual / s) (1 + residual / r)).

  Attributes:
    amplitude: variance of the function, [].
    residual: of a deviation over all items, relative to it, [].
  """

  amplitude: Array
  residual: Array

  def evaluate(self, X1: Any, X2: Any) -> Array:
    rows = [
      Points(*(jnp.asarray(leaf)[None] for leaf in point)) for point in (X1, X2)
    ]
    return self(*rows)[0, 0]

  def __call__(self, one: Any, other: Any = None) -> Array:
    if other is None:
      variance = self.amplitude * (1 + self.residual / one.share)
      return jnp.where(one.real, variance, 0.0)
    return self.covary(squares(one.z, other.z), one, other)

  def covary(self, square: Array, one: Points, other: Points) -> Array:
    """Covariances [A, B] where squared distances are known."""
    a, b = one.rung[:, None], other.rung[None]
    together = (a == b) | (a == EVERYTHING) | (b == EVERYTHING)
    larger = jnp.maximum(one.share[:, None], other.share[None])
    common = 1 + jnp.where(together, self.residual / larger, 0.0)
    real = one.real[:, None] & other.real[None]
    return jnp.where(real, self.amplitude * matern(square) * common, 0.0)
