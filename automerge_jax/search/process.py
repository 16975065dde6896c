"""A Gaussian process of scores on the unit box, as `optimizers.bayes` has it.

Matern 5/2 with one length scale and amplitude 1, on standardised scores, with
room for rows that are not filled yet. In the precision that JAX is set to.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from automerge_jax.search.kernels import matern, squares
from automerge_jax.types import Array, Told

_JITTER = 1e-6  # added to the variance of every row
_DECADES = 5  # length scales are within 10^-5 and 10^5


class Process(NamedTuple):
  """A Gaussian process and what it was told; R rows, float64.

  Attributes:
    x: proposals, [R, D].
    y: their scores, standardised; 0 where a row does not count, [R].
    filled: which rows count, bool [R].
    shift, scale: mean and standard deviation of the scores, [].
    length: the length scale, [].
  """

  x: Array
  y: Array
  filled: Array
  shift: Array
  scale: Array
  length: Array


def fitted(told: Told, spare: int = 0) -> Process:
  """The process of the likeliest length scale, in the precision that is set.

  Args:
    told: rows that failed or were not filled do not count.
    spare: empty rows behind those of `told`.
  """
  values = told.scores if told.values is None else told.values
  filled = jnp.isfinite(values) & (told.scores > -jnp.inf)
  filled = jnp.pad(filled, (0, spare))
  values = jnp.pad(values, (0, spare)).astype(float)
  x = jnp.pad(told.x, ((0, spare), (0, 0))).astype(float)
  count = jnp.maximum(filled.sum(), 1)
  shift = jnp.where(filled, values, 0.0).sum() / count
  left = jnp.where(filled, values - shift, 0.0)
  scale = jnp.sqrt((left**2).sum() / count)
  scale = jnp.where(scale > 1e-9, scale, 1.0)
  process = Process(x, left / scale, filled, shift, scale, jnp.ones(()))
  return process._replace(length=_likeliest(process))


def likelihood(process: Process) -> Array:
  """Log marginal likelihood of the standardised scores, []."""
  factor = factored(process)
  half = solve_triangular(factor, process.y, lower=True)
  constant = process.filled.sum() * np.log(2 * np.pi) / 2
  return -(half**2).sum() / 2 - jnp.log(jnp.diag(factor)).sum() - constant


def factored(process: Process) -> Array:
  """Lower Cholesky factor of the rows' covariance, [R, R].

  Rows that do not count covary with nothing.
  """
  square = squares(process.x, process.x) / process.length**2
  both = process.filled[:, None] & process.filled[None]
  eye = jnp.eye(len(process.x), dtype=bool)
  own = jnp.where(process.filled, 1 + _JITTER, 1.0)
  covariance = jnp.where(both, matern(square), 0.0)
  return jnp.linalg.cholesky(jnp.where(eye, own[:, None], covariance))


def rooted(process: Process) -> Array:
  """Inverse of the Cholesky factor, with which predictions are products."""
  eye = jnp.eye(len(process.x))
  return solve_triangular(factored(process), eye, lower=True)


def predict(x: Array, process: Process, root: Array) -> tuple[Array, Array]:
  """Mean and standard deviation at x [Q, D], in units of the scores, [Q]."""
  square = squares(x, process.x) / process.length**2
  cross = jnp.where(process.filled[None], matern(square), 0.0)
  gone = cross @ root.T
  mean = gone @ (root @ process.y)
  std = jnp.sqrt(jnp.maximum(1 - (gone**2).sum(-1), 1e-12))
  return mean * process.scale + process.shift, std * process.scale


def _likeliest(process: Process) -> Array:
  """The length scale of the highest marginal likelihood, [].

  The best of a grid of ten a decade, then of three finer ones around it; of
  equal ones that nearest to 1.
  """
  grid = np.arange(-10 * _DECADES, 10 * _DECADES + 1) / 10
  grid = grid[np.argsort(np.abs(grid), kind='stable')]

  def best(logs: Array) -> Array:
    found = jax.lax.map(
      lambda log: likelihood(process._replace(length=10**log)), logs
    )
    return logs[jnp.argmax(jnp.where(jnp.isnan(found), -jnp.inf, found))]

  log, width = best(jnp.asarray(grid)), 0.1
  for _ in range(3):
    steps = np.array(sorted(range(-10, 11), key=abs)) / 10
    log = best(jnp.clip(log + width * steps, -_DECADES, _DECADES))
    width /= 10
  return 10.0**log
