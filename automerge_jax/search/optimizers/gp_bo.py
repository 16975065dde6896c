"""Bayesian optimisation: a Gaussian process in a trust region.

TuRBO (https://arxiv.org/abs/1910.01739) with the length-scale prior of
https://arxiv.org/abs/2402.02229, on normal scores of ranks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tinygp
from jax.scipy.special import ndtri

from automerge_jax.search.kernels import Matern
from automerge_jax.search.optimizers import features
from automerge_jax.types import Array, Optimizer, SearchSpace, Told

_EMPTY = 1e6  # variance of the noise of rows that hold nothing
_LONGEST, _SHORTEST, _FIRST = 1.6, 0.5**7, 0.2  # edges of the trust region
_SUCCESSES, _FAILURES = 3, 2  # generations until it grows or shrinks
_PERTURBED = 20  # dimensions that a candidate changes, on average
_WAVES = 512  # random Fourier features of a sample
_DARING = 0.3  # part of a sample's deviation from the mean that counts
_CLIMB = 0.1 * 0.85 ** np.arange(30)  # steps, in diagonals of the region


class State(NamedTuple):
  """What was told, the process, and the trust region.

  Attributes:
    told: all rows.
    own: rows of the current trust region, bool [N].
    log_scale: length scales, [D].
    log_noise: variance of the noise, [].
    length: edge of the trust region, [].
    successes, failures: generations in a row that did or did not improve, [].
  """

  told: Told
  own: Array
  log_scale: Array
  log_noise: Array
  length: Array
  successes: Array
  failures: Array


def gp_bo(
  population: int,
  space: SearchSpace,
  steps: int = 25,
  candidates: int = 300,
) -> Optimizer:
  """Thompson sampling within a box around the best row.

  The box grows after three generations that improve and shrinks after two that
  do not; when it is too small, another one starts at random, which learns from
  its own rows alone. It starts smaller, shrinks sooner and takes less of a
  sample's deviation than published, for budgets of some hundred evaluations.
  Proposals are the best of random points, improved by gradient. Categories are
  one-hot; a dimension that changes nothing is set to a constant. Time grows
  with N^3 and N P `candidates` D.

  Args:
    population: P.
    space: what is searched.
    steps: of Adam on the process's likelihood, a generation.
    candidates: tried for each proposal.
  """
  of = features.Features(space)
  num_dims = len(space.names)
  prior = np.sqrt(2) + np.log(num_dims) / 2

  def process(x: Array, empty: Array, log_scale: Array, log_noise: Array):
    noise = jnp.exp(log_noise) + jnp.where(empty, _EMPTY, 1e-4)
    return tinygp.GaussianProcess(
      Matern(), x / of.spread(jnp.exp(log_scale))[None], diag=noise
    )

  def fitted(state: State) -> State:
    x, empty = of(state.told.x), ~state.own
    y = _normal_scores(state.told.scores, state.own)

    def loss(hyper):
      log_scale, log_noise = hyper
      likelihood = process(x, empty, *hyper).log_probability(y)
      return (
        -likelihood
        + (((log_scale - prior) ** 2) / 6).sum()
        + (log_noise + 4) ** 2 / 2
      )

    rule = optax.adam(0.1)

    def step(carry, _):
      hyper, moments = carry
      update, moments = rule.update(jax.grad(loss)(hyper), moments)
      return (optax.apply_updates(hyper, update), moments), None

    start = state.log_scale, state.log_noise
    (hyper, _), _ = jax.lax.scan(
      step, (start, rule.init(start)), None, length=steps
    )
    log_scale, log_noise = hyper
    return state._replace(log_scale=log_scale, log_noise=log_noise)

  def around(key: Array, center: Array, state: State):
    """Points of the trust region, [M, D], and its edges, [D] and [D]."""
    mask_key, one_key, float_key, option_key = jax.random.split(key, 4)
    shape = candidates, num_dims
    active = of.active(center[None])[0]
    share = jnp.minimum(1.0, _PERTURBED / jnp.maximum(active.sum(), 1))
    # Far options belong to a large region as far values do.
    near = jnp.minimum(1.0, state.length / _FIRST)
    share = share * jnp.where(of.categorical, near, 1.0)
    mask = jax.random.uniform(mask_key, shape) < share[None]
    one = jnp.argmax(active[None] * jax.random.uniform(one_key, shape), -1)
    mask = mask | (jnp.arange(num_dims)[None] == one[:, None])
    edge = jnp.exp(state.log_scale - state.log_scale.mean()) * state.length
    low = jnp.where(of.categorical, 0.0, jnp.clip(center - edge / 2, 0, 1))
    high = jnp.where(of.categorical, 1.0, jnp.clip(center + edge / 2, 0, 1))
    drawn = jax.random.uniform(float_key, shape)
    moved = jnp.where(
      of.categorical[None],
      of.options(option_key, shape),
      low[None] + (high - low)[None] * drawn,
    )
    return jnp.where(mask, moved, center[None]), low, high

  def ask(key: Array, state: State) -> Array:
    center_key, key = jax.random.split(key)
    told, log_scale, log_noise = state.told, state.log_scale, state.log_noise
    empty = ~state.own
    y = _normal_scores(told.scores, state.own)
    x = of(told.x)
    center = jnp.where(
      state.own.any(),
      told.x[jnp.argmax(jnp.where(state.own, told.scores, -jnp.inf))],
      of.random(center_key, 1)[0],
    )
    gp = process(x, empty, log_scale, log_noise)
    scale = of.spread(jnp.exp(log_scale))[None]
    rows = x / scale

    def propose(key: Array) -> Array:
      wave_key, phase_key, weight_key, noise_key, own_key = jax.random.split(
        key, 5
      )
      # Matern 5/2 has the spectrum of Student's t of five degrees.
      normal = jax.random.normal(wave_key, (rows.shape[1] + 5, _WAVES))
      chi_square = (normal[:5] ** 2).sum(0)
      waves = normal[5:] * jnp.sqrt(5 / chi_square)[None]
      phase = 2 * jnp.pi * jax.random.uniform(phase_key, (1, _WAVES))
      weights = jax.random.normal(weight_key, (_WAVES,))

      def drawn(z: Array) -> Array:
        return jnp.sqrt(2 / _WAVES) * jnp.cos(z @ waves + phase) @ weights

      noise = jnp.exp(log_noise / 2) * jax.random.normal(noise_key, y.shape)
      left = jnp.where(empty, 0.0, y - _DARING * (drawn(rows) + noise))
      solver = gp.solver
      pull = solver.solve_triangular(
        solver.solve_triangular(left), transpose=True
      )

      def sample(x: Array) -> Array:
        z = of(x) / scale
        return _DARING * drawn(z) + Matern()(z, rows) @ pull

      trials, low, high = around(own_key, center, state)
      best = trials[jnp.argmax(sample(trials))]
      slope = jax.grad(lambda x: sample(x[None])[0])
      diagonal = jnp.linalg.norm(high - low)

      def climb(carry, size):
        x, moment = carry
        moment = 0.7 * moment + 0.3 * jnp.where(of.categorical, 0.0, slope(x))
        unit = moment / (jnp.linalg.norm(moment) + 1e-12)
        return (jnp.clip(x + size * diagonal * unit, low, high), moment), None

      start = best, jnp.zeros_like(best)
      (top, _), _ = jax.lax.scan(climb, start, jnp.asarray(_CLIMB))
      both = jnp.stack([best, top])
      return both[jnp.argmax(sample(both))]

    return jax.vmap(propose)(jax.random.split(key, population))

  def init(key: Array, told: Told) -> State:
    del key
    zero = jnp.zeros((), jnp.int32)
    return fitted(
      State(
        told,
        told.scores > -jnp.inf,
        jnp.full(num_dims, prior, jnp.float32),
        jnp.asarray(-4.0, jnp.float32),  # a weak type would be traced twice
        jnp.asarray(_FIRST, jnp.float32),
        zero,
        zero,
      )
    )

  def tell(key: Array, told: Told, state: State) -> State:
    del key
    fresh = jnp.zeros(len(told.scores), bool).at[told.fresh].set(True)
    before = jnp.where(state.own & ~fresh, told.scores, -jnp.inf).max()
    better = told.scores[told.fresh].max() > before
    successes = jnp.where(better, state.successes + 1, 0)
    failures = jnp.where(better, 0, state.failures + 1)
    grow, shrink = successes == _SUCCESSES, failures == _FAILURES
    length = jnp.where(
      grow, jnp.minimum(2 * state.length, _LONGEST), state.length
    )
    length = jnp.where(shrink, length / 2, length)
    over = length < _SHORTEST
    own = (state.own | fresh) & (told.scores > -jnp.inf)
    return fitted(
      state._replace(
        told=told,
        own=own & ~over,
        log_scale=jnp.where(over, prior, state.log_scale),
        log_noise=jnp.where(over, -4.0, state.log_noise),
        length=jnp.where(over, _FIRST, length),
        successes=jnp.where(grow | over, 0, successes),
        failures=jnp.where(shrink | over, 0, failures),
      )
    )

  return Optimizer(jax.jit(init), jax.jit(ask), jax.jit(tell))


def _normal_scores(scores: Array, own: Array) -> Array:
  """Blom's normal scores of the rows that count, equal ones equal; else 0."""
  ordered = jnp.sort(jnp.where(own, scores, jnp.inf))
  below = jnp.searchsorted(ordered, scores, side='left')
  upto = jnp.searchsorted(ordered, scores, side='right')
  rank = (below + upto + 1) / 2
  return jnp.where(own, ndtri((rank - 0.375) / (own.sum() + 0.25)), 0.0)
