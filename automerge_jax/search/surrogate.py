"""A Gaussian process that foresees the difference to the incumbent.

Matern 5/2 over floats and one-hot categories, with the length-scale prior for
many dimensions of https://arxiv.org/abs/2402.02229. A length scale of each
dimension could not be learned from some hundred points, so dimensions of a kind
share one. Fidelity is an input, see `kernels.Nested`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tinygp

from automerge_jax.search.kernels import EVERYTHING, Nested, Points, squares
from automerge_jax.search.observations import Observations
from automerge_jax.search.optimizers import features
from automerge_jax.types import Array, SearchSpace

# Means and standard deviations of the normal priors of logarithms; in units of
# the observations' standard deviation and variance.
_AMPLITUDE = 0.0, 1.0
_RESIDUAL = -3.0, 1.5
_NOISE = -4.0, 1.0
_JITTER = 1e-4  # of the amplitude, for float32
_RATE, _MOMENTUM = 0.5, 0.6  # of Adam; the rate falls to zero


class Hyper(NamedTuple):
  """Logarithms of what is learned.

  Attributes:
    scale: length scales of kinds of dimensions, [G].
    amplitude: variance of the function, [].
    residual: of what is peculiar to all items, relative to it, [].
    noise: variance that the observations' own does not explain, [].
  """

  scale: Array
  amplitude: Array
  residual: Array
  noise: Array


class Fitted(NamedTuple):
  """A process that was fitted, M independent ones of the same parameters.

  Attributes:
    hyper: its parameters.
    rows: what it was fitted to.
    shift, scale: mean and standard deviation of the observations, [M].
    factor: lower Cholesky factors of the covariance of the rows, [M, N, N].
    pull: inverse covariance times observations, [M, N].
    evidence: log marginal likelihood of the observations, in units of `scale`,
      [M].
    known: what it says of its own rows, mean difference to the incumbent on
      all search items, [N, M]; -inf where a row is not filled.
  """

  hyper: Hyper
  rows: Observations
  shift: Array
  scale: Array
  factor: Array
  pull: Array
  evidence: Array
  known: Array


class Surrogate(NamedTuple):
  """The process as pure functions, jitted; the same rows give the same fit.

  Attributes:
    fit: `Observations -> Fitted`.
    condition: `(Hyper, Observations) -> Fitted` whose parameters are given.
    predict: `(x [Q, D], Fitted) -> (mean [Q, M], variance [Q, M])` of the
      difference to the incumbent on all search items, without noise.
    groups: the kind of each dimension, int [D].
    features: of the space.
  """

  fit: Callable[[Observations], Fitted]
  condition: Callable[[Hyper, Observations], Fitted]
  predict: Callable[[Array, Fitted], tuple[Array, Array]]
  groups: np.ndarray
  features: features.Features


def kinds(space: SearchSpace) -> np.ndarray:
  """Number of each dimension's kind, int [D]: which dimensions share a scale.

  Floats of one parameter (what stands in their names before the first slash)
  are of a kind, and so are all categories.
  """
  choices = np.zeros(len(space.names), int)
  if space.choices is not None:
    choices = np.asarray(space.choices)
  kind = [
    ('category',)
    if choice
    else ('float', name.rpartition('/')[0] and name.partition('/')[0])
    for name, choice in zip(space.names, choices, strict=True)
  ]
  return np.unique([str(one) for one in kind], return_inverse=True)[1]


def surrogate(space: SearchSpace, steps: int = 20) -> Surrogate:
  """The process of a space; build once and reuse.

  Every fit starts at the prior, so that it depends on the rows alone. A fit
  takes O(steps M N^3) for the capacity N, filled or not.

  Args:
    space: what is searched.
    steps: of Adam on the posterior density of the parameters.
  """
  of = features.Features(space)
  groups = kinds(space)
  owner = of.spread(groups)
  typical = np.sqrt(2) + np.log(len(groups)) / 2
  prior = (
    Hyper(jnp.full(groups.max() + 1, typical, jnp.float32), *_prior(0)),
    Hyper(jnp.asarray(3**0.5), *_prior(1)),
  )

  def points(
    x: Array, rung: Array, share: Array, real: Array, hyper: Hyper
  ) -> Any:
    return Points(of(x) / jnp.exp(hyper.scale)[owner][None], rung, share, real)

  def kernel(hyper: Hyper) -> Nested:
    return Nested(jnp.exp(hyper.amplitude), jnp.exp(hyper.residual))

  def covariance(hyper: Hyper, rows: Observations, apart: Array):
    """Of the rows without their own noise, [N, N].

    `apart` are squared distances within each kind of dimension, [G, N, N].
    """
    square = (apart * jnp.exp(-2 * hyper.scale)[:, None, None]).sum(0)
    at = Points(rows.x, rows.rung, rows.share, rows.filled)
    noise = jnp.exp(hyper.noise) + _JITTER * jnp.exp(hyper.amplitude)
    own = jnp.where(rows.filled, noise, 1.0)
    return kernel(hyper).covary(square, at, at) + jnp.diag(own)

  def distances(rows: Observations) -> Array:
    z = of(rows.x)
    return jnp.stack(
      [
        squares(z[:, owner == group], z[:, owner == group])
        for group in range(groups.max() + 1)
      ]
    )

  def process(hyper: Hyper, rows: Observations, apart: Array, variance: Array):
    """The process of one objective, whose variances are [N]."""
    own = jnp.where(rows.filled, variance, 0.0)
    return tinygp.GaussianProcess(
      kernel(hyper),
      points(rows.x, rows.rung, rows.share, rows.filled, hyper),
      diag=own,
      covariance_value=covariance(hyper, rows, apart) + jnp.diag(own),
    )

  def standard(rows: Observations):
    """Observations and variances [M, N] in units of shift and scale [M]."""
    value = jax.vmap(_fenced, (1, None))(jnp.asarray(rows.value), rows.filled)
    count = jnp.maximum(rows.filled.sum(), 1)
    shift = jnp.where(rows.filled[None], value, 0.0).sum(1) / count
    left = jnp.where(rows.filled[None], value - shift[:, None], 0.0)
    scale = jnp.sqrt((left**2).sum(1) / count)
    scale = jnp.where(scale > 1e-9, scale, 1.0)
    variance = jnp.asarray(rows.variance).T / scale[:, None] ** 2
    return left / scale[:, None], variance, shift, scale

  def evidence(gp: tinygp.GaussianProcess, y: Array, rows: Observations):
    empty = (~rows.filled).sum()
    return gp.log_probability(y) + empty * jnp.log(2 * jnp.pi) / 2

  def condition(hyper: Hyper, rows: Observations) -> Fitted:
    rows = jax.tree.map(jnp.asarray, rows)
    y, variance, shift, scale = standard(rows)
    apart = distances(rows)

    def one(y: Array, variance: Array):
      gp = process(hyper, rows, apart, variance)
      assert isinstance(gp.solver, tinygp.solvers.DirectSolver)
      return gp.solver.scale_tril, _solved(gp, y), evidence(gp, y, rows)

    factor, pull, likelihood = jax.vmap(one)(y, variance)
    fitted = Fitted(hyper, rows, shift, scale, factor, pull, likelihood, y.T)
    mean = crossed(rows.x, fitted) @ pull.T * scale[None] + shift[None]
    return fitted._replace(
      known=jnp.where(rows.filled[:, None], mean, -jnp.inf)
    )

  def fit(rows: Observations) -> Fitted:
    rows = jax.tree.map(jnp.asarray, rows)
    y, variance, _, _ = standard(rows)
    apart = distances(rows)

    def weight(hyper: Hyper, y: Array, variance: Array) -> Array:
      """Derivative of the evidence by the covariance, [N, N]."""
      gp = process(hyper, rows, apart, variance)
      pull = _solved(gp, y)
      root = gp.solver.solve_triangular(jnp.eye(len(y)))
      return (pull[:, None] * pull[None] - root.T @ root) / 2

    def slope(hyper: Hyper) -> Hyper:
      """Derivative of the posterior density's logarithm.

      By the chain rule through the covariance: to differentiate its Cholesky
      factors costs several times as much.
      """
      weights = jax.vmap(weight, (None, 0, 0))(hyper, y, variance).sum(0)
      ascent = jax.grad(
        lambda hyper: (weights * covariance(hyper, rows, apart)).sum()
      )(hyper)
      return jax.tree.map(
        lambda up, at, mean, std: up - (at - mean) / std**2,
        ascent,
        hyper,
        *prior,
      )

    rule = optax.adam(optax.cosine_decay_schedule(_RATE, steps), b1=_MOMENTUM)

    def step(carry, _):
      hyper, moments = carry
      down = jax.tree.map(jnp.negative, slope(hyper))
      update, moments = rule.update(down, moments)
      return (optax.apply_updates(hyper, update), moments), None

    start = prior[0], rule.init(prior[0])
    (hyper, _), _ = jax.lax.scan(step, start, None, length=steps)
    return condition(hyper, rows)

  def crossed(x: Array, fitted: Fitted) -> Array:
    """Covariance of x on all items with the rows, [Q, N]."""
    hyper, rows = fitted.hyper, fitted.rows
    asked = points(
      x,
      jnp.full(len(x), EVERYTHING, jnp.int32),
      jnp.ones(len(x)),
      jnp.ones(len(x), bool),
      hyper,
    )
    have = points(rows.x, rows.rung, rows.share, rows.filled, hyper)
    return kernel(hyper)(asked, have)

  def predict(x: Array, fitted: Fitted) -> tuple[Array, Array]:
    cross = crossed(x, fitted)
    gone = jax.vmap(
      lambda factor: jax.scipy.linalg.solve_triangular(
        factor, cross.T, lower=True
      )
    )(fitted.factor)
    hyper = fitted.hyper
    before = jnp.exp(hyper.amplitude) * (1 + jnp.exp(hyper.residual))
    variance = jnp.maximum(before - (gone**2).sum(1), 1e-6 * before)
    scale = fitted.scale[None]
    mean = cross @ fitted.pull.T * scale + fitted.shift[None]
    return mean, variance.T * scale**2

  return Surrogate(
    jax.jit(fit), jax.jit(condition), jax.jit(predict), groups, of
  )


def _prior(part: int) -> list[Array]:
  """Means (0) or standard deviations (1) of all but the length scales."""
  return [
    jnp.asarray(p[part], jnp.float32) for p in (_AMPLITUDE, _RESIDUAL, _NOISE)
  ]


def _solved(gp: tinygp.GaussianProcess, y: Array) -> Array:
  """Inverse covariance times y [N]."""
  return gp.solver.solve_triangular(
    gp.solver.solve_triangular(y), transpose=True
  )


def _fenced(value: Array, filled: Array) -> Array:
  """Values [N] none of which is below Tukey's outer fence.

  A candidate that lost everything would else set the scale of all others.
  """
  ordered = jnp.sort(jnp.where(filled, value, jnp.inf))
  last = jnp.maximum(filled.sum() - 1, 0)
  lower, upper = ordered[last // 4], ordered[(3 * last + 3) // 4]
  # Where half of the values are equal, their range says nothing.
  fence = jnp.where(upper > lower, lower - 3 * (upper - lower), -jnp.inf)
  return jnp.maximum(value, fence)
