"""Typed spaces with losses of known optimum, and a search of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array, Optimizer, SearchSpace, Told
from experiments.bench import functions


class Problem(NamedTuple):
  """What to search.

  Attributes:
    space: typed; recipes do not matter here.
    loss: `c [D] -> []`, 0 at the optimum.
    best: an optimum, c [D].
  """

  space: SearchSpace
  loss: Callable[[Array], Array]
  best: np.ndarray


def typed(choices, active=None, correlation=None, decimals=None) -> SearchSpace:
  """A space of floats (0) and categoricals (number of options)."""
  choices = np.asarray(choices)
  width = np.maximum(choices, 1)
  categorical = choices > 0

  def quantise(x):
    x = jnp.clip(x, 0.0, 1.0)
    index = jnp.clip(jnp.floor(x * width), 0, width - 1)
    plain = x if decimals is None else jnp.round(x, decimals)
    return jnp.where(categorical, index, plain)

  def encode(c):
    return jnp.where(categorical, (c + 0.5) / width, c)

  return SearchSpace(
    names=tuple(f'{i}' for i in range(len(choices))),
    correlation=np.eye(len(choices)) if correlation is None else correlation,
    quantise=quantise,
    encode=encode,
    decode=lambda c: {},
    describe=lambda c: None,
    choices=choices if categorical.any() else None,
    active=active,
  )


def floats(name: str, num_dims: int, seed: int = 0) -> Problem:
  """A BBOB-like function on a box."""
  function = functions.make(name, num_dims, seed)
  return Problem(
    typed(np.zeros(num_dims, int)), lambda c: function(c, jnp), function.target
  )


def shifted(groups: int, width: int, options: int, seed: int = 0) -> Problem:
  """Each group's category moves the optimum of the group's floats.

  D = groups * (1 + width), a group after the other, its category first. The
  best category of a group loses nothing, others up to 8.
  """
  draw = np.random.default_rng([seed, groups, width, options])
  target = draw.uniform(0.1, 0.9, (groups, options, width))
  penalty = _penalties(draw, groups, options)
  space = typed(([options] + [0] * width) * groups)

  def loss(c):
    c = c.reshape(groups, 1 + width)
    option = c[:, 0].astype(int)
    at = jnp.asarray(target)[jnp.arange(groups), option]
    lost = jnp.asarray(penalty)[jnp.arange(groups), option]
    return (lost + ((10 * (c[:, 1:] - at)) ** 2).sum(-1)).sum()

  right = penalty.argmin(1)
  best = np.column_stack([right, target[np.arange(groups), right]])
  return Problem(space, loss, best.ravel())


def conditional(
  groups: int, width: int, options: int, seed: int = 0
) -> Problem:
  """Each option of a group has floats of its own; only the chosen one's count.

  D = groups * (1 + options * width).
  """
  draw = np.random.default_rng([seed, groups, width, options])
  target = draw.uniform(0.1, 0.9, (groups, options, width))
  penalty = _penalties(draw, groups, options)
  shape = (groups, options, width)

  def split(c):
    c = c.reshape(groups, 1 + options * width)
    return c[:, 0].astype(int), c[:, 1:].reshape(shape)

  def active(c):
    option, values = split(c)
    chosen = jnp.arange(options)[None, :] == option[:, None]
    chosen = jnp.broadcast_to(chosen[..., None], values.shape)
    always = jnp.ones((groups, 1), bool)
    return jnp.concatenate([always, chosen.reshape(groups, -1)], 1).ravel()

  def loss(c):
    option, values = split(c)
    off = 10 * (values - target)[jnp.arange(groups), option]
    lost = jnp.asarray(penalty)[jnp.arange(groups), option]
    return (lost + (off**2).sum(-1)).sum()

  space = typed(([options] + [0] * (options * width)) * groups, active)
  best = np.column_stack([penalty.argmin(1), target.reshape(groups, -1)])
  return Problem(space, loss, best.ravel())


def _penalties(draw, groups, options):
  return draw.permuted(np.tile(np.linspace(0, 8, options), (groups, 1)), axis=1)


def ranks(values: Array, filled: Array) -> Array:
  """Rank scores of values [N], equal ones equal; -inf where nothing is."""
  ordered = jnp.sort(jnp.where(filled, values, jnp.inf))
  below = jnp.searchsorted(ordered, values).astype(jnp.float32)
  return jnp.where(filled, below, -jnp.inf)


def search(*args, **kwargs) -> tuple[Array, Array]:
  """As `observed`, without what was observed."""
  c, loss, _ = observed(*args, **kwargs)
  return c, loss


def observed(
  optimizer: Optimizer,
  problem: Problem,
  population: int,
  generations: int,
  key: Array,
  noise: float = 0.0,
  spare: int = 0,
) -> tuple[Array, Array, Array]:
  """A whole search; its first generation is drawn at random.

  Args:
    optimizer: to be tried.
    problem: to be searched.
    population: P.
    generations: with the first.
    key: of everything.
    noise: standard deviation of what is added to losses before they are ranked.
    spare: rows of `Told` that are never filled.

  Returns:
    c [G, P, D] of all proposals, their losses without noise [G, P], and with it
    [G, P], by which they were ranked.
  """
  space = problem.space
  count = population * generations
  start, begin, loop = jax.random.split(key, 3)
  evaluate = jax.vmap(problem.loss)

  def put(table, g, x, key):
    rows = g * population + jnp.arange(population)
    c = jax.vmap(space.quantise)(x)
    loss = evaluate(c)
    seen = -(loss + noise * jax.random.normal(key, loss.shape))
    told, values = table
    values = values.at[rows].set(seen)
    filled = jnp.arange(len(values)) < (g + 1) * population
    told = Told(
      told.x.at[rows].set(jax.vmap(space.encode)(c)),
      ranks(values, filled),
      rows,
      x,
    )
    return (told, values), (c, loss, -seen)

  def step(carry, g):
    table, state = carry
    ask_key, tell_key, noise_key = jax.random.split(
      jax.random.fold_in(loop, g), 3
    )
    x = optimizer.ask(ask_key, state)
    table, out = put(table, g, x, noise_key)
    return (table, optimizer.tell(tell_key, table[0], state)), out

  num_dims = len(space.names)
  told = Told(
    jnp.full((count + spare, num_dims), 0.5),
    jnp.full(count + spare, -jnp.inf),
    jnp.arange(population),
    jnp.zeros((population, num_dims)),
  )
  x = jax.random.uniform(start, (population, num_dims))
  table, first = put((told, jnp.zeros(count + spare)), 0, x, begin)
  state = optimizer.init(begin, table[0])
  _, rest = jax.lax.scan(step, (table, state), jnp.arange(1, generations))
  return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


def best_losses(
  optimizer: Optimizer,
  problem: Problem,
  population: int,
  generations: int,
  seeds: int = 3,
  noise: float = 0.0,
) -> np.ndarray:
  """Lowest loss of each of several searches, [seeds]."""

  def one(key):
    return search(optimizer, problem, population, generations, key, noise)[
      1
    ].min()

  keys = jax.random.split(jax.random.key(0), seeds)
  return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys))
