"""Bayesian optimisation of a Gaussian process, as DF-Merge is searched.

https://arxiv.org/abs/2504.18992, after the settings of its code, which leaves
this to bayes_opt 2.0.3 and scikit-learn. There the refinement takes the worst
of its local optima, so that it never helps, and proposals depend on no seed.
Here it takes the best, proposals are exact by their key, the length scale is
the most likely one of its whole range instead of the best of six local
searches, and recipes that are equal on the grid count as equal.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.stats import norm

from automerge_jax.search.kernels import matern, squares
from automerge_jax.types import Array, Optimizer, SearchSpace, Told

XI = 0.01  # by how much EI wants to improve, in units of the scores
KAPPA = 2.576  # standard deviations of UCB
SAMPLES, STARTS = 10_000, 10  # where the acquisition is tried, and refined from
_JITTER = 1e-6  # added to the variance of every row
_DECADES = 5  # length scales are within 10^-5 and 10^5
_STEPS = 40  # of the refinement
_SIZES = np.r_[0.0, 0.5 ** np.arange(18)]  # of a step's largest entry
_SAME = 1e-6  # less than a step of any grid


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


def ei(mean: Array, std: Array, best: Array) -> Array:
  """Expected improvement over `best` + xi."""
  z = (mean - best - XI) / std
  return (mean - best - XI) * norm.cdf(z) + std * norm.pdf(z)


def ucb(mean: Array, std: Array, best: Array) -> Array:
  """Upper confidence bound."""
  del best
  return mean + KAPPA * std


_ACQUISITIONS = {'ei': ei, 'ucb': ucb}


def bayes(
  population: int, space: SearchSpace, acquisition: str = 'ei'
) -> Optimizer:
  """Maximises an acquisition over 10,000 samples, refined by gradient.

  Matern 5/2 with one length scale on [0, 1]^D, amplitude 1, standardised
  scores. It learns from `Told.values` where there are any, else from rank
  scores. The published population is 1; of a larger one each proposal takes
  those before it to score what was predicted of them (the kriging believer,
  https://doi.org/10.1007/978-3-642-10701-6_6). What was told or asked for
  already is asked for again only where all samples were. Computes in float64,
  whatever JAX is set to, which has to be entered from outside of all jitted
  functions: `ask` cannot be a part of another one. Time grows with N^3.

  Args:
    population: P.
    space: what is searched.
    acquisition: 'ei' with xi = 0.01 or 'ucb' with kappa = 2.576.

  Raises:
    ValueError: for another acquisition, or a space with categories.
  """
  if acquisition not in _ACQUISITIONS:
    raise ValueError(
      f'the optimizer bayes has no acquisition {acquisition!r}; expected one '
      f'of {sorted(_ACQUISITIONS)}'
    )
  if space.choices is not None and np.any(space.choices):
    raise ValueError(
      f'{np.count_nonzero(space.choices)} of {len(space.names)} dimensions are '
      'categories, which the optimizer bayes does not know; gp_bo does'
    )

  def acquire(process: Process) -> Callable[[Array], Array]:
    root = rooted(process)
    highest = jnp.where(process.filled, process.y, -jnp.inf).max()
    highest = jnp.where(process.filled.any(), highest, 0.0)
    best = highest * process.scale + process.shift

    def value(x: Array) -> Array:
      return _ACQUISITIONS[acquisition](*predict(x, process, root), best)

    return value

  def proposals(key: Array, process: Process) -> Array:
    value = acquire(process)
    x = jax.random.uniform(key, (SAMPLES, process.x.shape[1]), float)
    values = value(x)
    _, first = jax.lax.top_k(values, STARTS)
    better, best = refined(value, x[first])
    order = jnp.argsort(-jnp.concatenate([best, values]))
    return jnp.concatenate([better, x])[order].astype(jnp.float32)

  def different(x: Array, told: Array, filled: Array) -> Array:
    """The first of x [Q, D] that is none of the rows told [R, D], [D]."""
    grid = jax.vmap(lambda one: space.encode(space.quantise(one)))(x)

    def same(row: Array) -> Array:
      return (jnp.abs(grid - row[None]) < _SAME).all(-1)

    old = (jax.vmap(same)(told) & filled[:, None]).any(0)
    return x[jnp.argmin(old)]

  def believe(process: Process, x: Array, row: Array) -> Process:
    mean, _ = predict(x[None], process, rooted(process))
    y = (mean[0] - process.shift) / process.scale
    return process._replace(
      x=process.x.at[row].set(x.astype(process.x.dtype)),
      y=process.y.at[row].set(y),
      filled=process.filled.at[row].set(True),
    )

  begin = _double(lambda told: fitted(told, spare=population - 1))
  best_first, extend = _double(proposals), _double(believe)
  choose = jax.jit(different)
  on_grid = jax.jit(lambda x: space.encode(space.quantise(x)))

  def ask(key: Array, told: Told) -> Array:
    process = begin(told)
    known = np.full((len(told.x) + population, told.x.shape[1]), 0.5)
    known = known.astype(np.float32)
    known[: len(told.x)] = told.x
    filled = np.zeros(len(known), bool)
    filled[: len(told.x)] = np.asarray(told.scores) > -np.inf
    found = []
    for i, own in enumerate(jax.random.split(key, population)):
      x = choose(best_first(own, process), known, filled)
      found.append(x)
      row = len(told.x) + i
      known[row], filled[row] = on_grid(x), True
      if i + 1 < population:
        process = extend(process, known[row], np.int32(row))
    return jnp.stack(found)

  return Optimizer(lambda key, told: told, ask, lambda key, told, state: told)


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


def _double(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function jitted, in float64."""
  jitted = jax.jit(function)

  def call(*args):
    with jax.enable_x64(True):
      return jitted(*args)

  return call
