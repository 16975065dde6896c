"""NSGA-II (https://doi.org/10.1109/4235.996017) on a typed space.

Fronts and crowding are in the scores; here are tournaments and variation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.search.optimizers import features
from automerge_jax.types import Array, Optimizer, SearchSpace, Told

_SPARE = 4  # children drawn for each that is asked for


class State(NamedTuple):
  """What was told."""

  told: Told


def nsga2(
  population: int,
  space: SearchSpace,
  crossover: float = 0.9,
  crossover_index: float = 15.0,
  mutation_index: float = 20.0,
) -> Optimizer:
  """The best P rows are parents; binary tournaments by score.

  Floats are crossed by SBX (a dimension with probability 1/2) and mutated
  polynomially, categories exchanged and drawn anew. On average a child mutates
  in one of the dimensions that change its recipe. In place of what was
  told before, or is a child already, comes another child, or a random point.

  Args:
    population: P, at least 2.
    space: what is searched.
    crossover: probability that a pair of parents is crossed.
    crossover_index: how near children stay to their parents.
    mutation_index: how near a mutated value stays to the old one.

  Raises:
    ValueError: for a population below 2.
  """
  if population < 2:
    raise ValueError(f'NSGA-II needs a population of at least 2, {population=}')
  of = features.Features(space)
  pairs = -(-population * _SPARE // 2)

  def tournament(key: Array, scores: Array) -> Array:
    """Positions of winners among the first parents, [pairs]."""
    count = jnp.maximum((scores > -jnp.inf).sum(), 1)
    drawn = jax.random.randint(key, (2, pairs), 0, count)
    return jnp.where(scores[drawn[0]] >= scores[drawn[1]], drawn[0], drawn[1])

  def cross(key: Array, one: Array, other: Array) -> Array:
    """Both children of each pair, [2 pairs, D]."""
    pair_key, dim_key, spread_key, side_key = jax.random.split(key, 4)
    shape = one.shape
    crossed = jax.random.uniform(pair_key, (pairs, 1)) < crossover
    crossed = crossed & jax.random.bernoulli(dim_key, 0.5, shape)
    low, high = jnp.minimum(one, other), jnp.maximum(one, other)
    apart = high - low
    safe = jnp.maximum(apart, 1e-9)
    u = jax.random.uniform(spread_key, shape)

    def spread(room: Array) -> Array:
      """SBX's factor, bounded so that a child stays in the box."""
      alpha = 2 - (1 + 2 * room / safe) ** -(crossover_index + 1)
      inside = u * alpha
      power = 1 / (crossover_index + 1)
      return jnp.where(
        u <= 1 / alpha, inside**power, (1 / (2 - inside)) ** power
      )

    middle = (low + high) / 2
    below = middle - spread(low) * apart / 2
    above = middle + spread(1 - high) * apart / 2
    swap = jax.random.bernoulli(side_key, 0.5, shape)
    first = jnp.where(swap, above, below)
    second = jnp.where(swap, below, above)
    moved = crossed & (apart > 1e-6) & ~of.categorical[None]
    traded = crossed & of.categorical[None] & swap
    return jnp.concatenate(
      [
        jnp.where(moved, first, jnp.where(traded, other, one)),
        jnp.where(moved, second, jnp.where(traded, one, other)),
      ]
    )

  def mutate(key: Array, x: Array) -> Array:
    where_key, step_key, option_key = jax.random.split(key, 3)
    active = of.active(x)
    share = 1 / jnp.maximum(active.sum(-1, keepdims=True), 1)
    chosen = active & (jax.random.uniform(where_key, x.shape) < share)
    u = jax.random.uniform(step_key, x.shape)
    power = mutation_index + 1
    down = (2 * u + (1 - 2 * u) * (1 - x) ** power) ** (1 / power) - 1
    up = 1 - (2 * (1 - u) + (2 * u - 1) * x**power) ** (1 / power)
    moved = x + jnp.where(u < 0.5, down, up)
    new = jnp.where(
      of.categorical[None], of.options(option_key, x.shape), moved
    )
    return jnp.clip(jnp.where(chosen, new, x), 0.0, 1.0)

  def same(one: Array, other: Array) -> Array:
    """Which of [M, E] and [N, E] are equal, [M, N]."""
    return jax.vmap(lambda row: (row[None] == other).all(-1))(one)

  def ask(key: Array, state: State) -> Array:
    first_key, second_key, cross_key, mutate_key, else_key = jax.random.split(
      key, 5
    )
    told = state.told
    scores, rows = jax.lax.top_k(told.scores, min(population, len(told.x)))
    parents = told.x[rows]
    x = cross(
      cross_key,
      parents[tournament(first_key, scores)],
      parents[tournament(second_key, scores)],
    )
    x = mutate(mutate_key, x)
    x = jnp.concatenate([x, of.random(else_key, len(x))])
    # What is equal on the grid, and in all that matters, is one recipe.
    grid = of(jax.vmap(lambda one: space.encode(space.quantise(one)))(x))
    known = same(grid, of(told.x)) & (told.scores > -jnp.inf)[None]
    earlier = same(grid, grid) & jnp.asarray(
      np.tril(np.ones((len(x), len(x)), bool), -1)
    )
    repeated = known.any(-1) | earlier.any(-1)
    return x[jnp.argsort(repeated)[:population]]

  def init(key: Array, told: Told) -> State:
    del key
    return State(told)

  def tell(key: Array, told: Told, state: State) -> State:
    del key, state
    return State(told)

  return Optimizer(jax.jit(init), jax.jit(ask), jax.jit(tell))
