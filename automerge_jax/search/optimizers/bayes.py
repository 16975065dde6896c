"""Bayesian optimisation of a Gaussian process, as DF-Merge is searched.

https://arxiv.org/abs/2504.18992, after the settings of its code, which leaves
this to bayes_opt 2.0.3 and scikit-learn. There the refinement takes the worst
of its local optima, so that it never helps, and proposals depend on no seed.
Here it takes the best, proposals are exact by their key, the length scale is
the most likely one of its whole range instead of the best of six local
searches, and recipes that are equal on the grid count as equal.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from automerge_jax.search import process as processes
from automerge_jax.search import refinement
from automerge_jax.search.process import Process
from automerge_jax.types import Array, Optimizer, SearchSpace, Told

XI = 0.01  # by how much EI wants to improve, in units of the scores
KAPPA = 2.576  # standard deviations of UCB
SAMPLES, STARTS = 10_000, 10  # where the acquisition is tried, and refined from
_SAME = 1e-6  # less than a step of any grid


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
    root = processes.rooted(process)
    highest = jnp.where(process.filled, process.y, -jnp.inf).max()
    highest = jnp.where(process.filled.any(), highest, 0.0)
    best = highest * process.scale + process.shift

    def value(x: Array) -> Array:
      return _ACQUISITIONS[acquisition](
        *processes.predict(x, process, root), best
      )

    return value

  def proposals(key: Array, process: Process) -> Array:
    value = acquire(process)
    x = jax.random.uniform(key, (SAMPLES, process.x.shape[1]), float)
    values = value(x)
    _, first = jax.lax.top_k(values, STARTS)
    better, best = refinement.refined(value, x[first])
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
    mean, _ = processes.predict(x[None], process, processes.rooted(process))
    y = (mean[0] - process.shift) / process.scale
    return process._replace(
      x=process.x.at[row].set(x.astype(process.x.dtype)),
      y=process.y.at[row].set(y),
      filled=process.filled.at[row].set(True),
    )

  begin = _double(lambda told: processes.fitted(told, spare=population - 1))
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


def _double(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function jitted, in float64."""
  jitted = jax.jit(function)

  def call(*args):
    with jax.enable_x64(True):
      return jitted(*args)

  return call
