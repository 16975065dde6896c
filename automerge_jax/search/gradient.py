"""Gradient ascent on coefficients, which a differentiable merge allows.

Merge and forward pass are differentiable in the coefficients, so a soft
objective on search items says in which direction all of them should move, at
the cost of about three forward passes. What is no coefficient stays: densities
and thresholds act through masks, which have no slope, and depth and choices
through which layer or method is taken.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from automerge_jax.search import shared, soft
from automerge_jax.tasks import kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import (
  Array,
  ExpertStack,
  Family,
  MergeMethod,
  Params,
  SearchSpace,
)

# Parameters of merge methods that a merge is differentiable in, and the scores
# by which SLERP's share is set.
COEFFICIENTS = ('weight', 'lambda', 't', 'score', 'r', 'alpha')


class Batches(NamedTuple):
  """Search items in equal minibatches.

  Attributes:
    data: see `kinds.minibatches`, leaves [minibatches, ...].
    task: index of each item's task, int32 [n + 1].
    share: of each item in its task's mean over a minibatch, [n + 1], 0 for
      padding; over a task they sum to 1 a minibatch, in expectation.
    targets: see `soft.targets`, [n + 1, C], or None.
  """

  data: tuple[Any, ...]
  task: Array
  share: Array
  targets: Array | None = None


def batches(
  items: ItemSet, count: int, targets: np.ndarray | None = None
) -> Batches:
  """Deals the items to `count` minibatches in turn.

  Items come task by task, each in random order, so every minibatch holds about
  the same share of every task; all have the same shapes.
  """
  per_task = np.bincount(items.task, minlength=len(items.tasks))
  return Batches(
    kinds.minibatches(items, count),
    jnp.asarray(np.append(items.task, 0)),
    jnp.asarray(np.append(count / per_task[items.task], 0.0), jnp.float32),
    None if targets is None else jnp.asarray(targets),
  )


class State(NamedTuple):
  """Where an ascent is.

  Attributes:
    x: [D].
    moves: which dimensions move, bool [D].
    adam: moments of the gradients.
  """

  x: Array
  moves: Array
  adam: Any


class Ascent(NamedTuple):
  """Gradient ascent as pure functions, jitted where they take a stack.

  Weights [tasks] sum to 1: the objective is the weighted mean over tasks.

  Attributes:
    init: `c [D] -> State`.
    step: `(i, rate, state, stack, heads, batches, weights) -> (State, value)`
      on minibatch i modulo their number; value is the objective there before
      the step, NaN if it or its gradient is not finite: the state then stays.
    value: `(x, stack, heads, batches, weights) -> value` on all minibatches.
    c: `x [D] -> c [D]`, on the grid.
  """

  init: Callable[..., State]
  step: Callable[..., tuple[State, Array]]
  value: Callable[..., Array]
  c: Callable[[Array], Array]


def ascent(
  family: Family,
  method: MergeMethod,
  space: SearchSpace,
  objective: str,
  shrinkage: float = 0.0,
  dtype: str = 'float32',
  item_sets: int = 1,
) -> Ascent:
  """Adam on x in [0, 1]^D, projected on the box, shrunk to layers' means.

  Args:
    family: the models' family.
    method: how to merge.
    space: decodes x; its rounding passes gradients through.
    objective: one of `soft.OBJECTIVES`.
    shrinkage: after each step coefficients get closer to their mean over the
      components of their layer group, see `shrunk`, by rate times this.
    dtype: in which merged models compute.
    item_sets: different sets of items that it is used on; `step` and `value`
      raise RuntimeError when they are traced for more.

  Raises:
    ValueError: if the space has no coefficient, or for another objective.
  """
  if objective not in soft.OBJECTIVES:
    raise ValueError(
      f'objective is {objective!r}; expected one of {soft.OBJECTIVES}'
    )
  free = movable(space)
  if not free.any():
    raise ValueError(
      f'no dimension of the space follows a gradient ({list(space.names)[:3]}, '
      f'...); expected one of {COEFFICIENTS}: set gradient_steps to 0'
    )
  if not method.switch:  # what switches is checkpointed by `resident.merge`
    method = dataclasses.replace(method, merge=jax.checkpoint(method.merge))
  adam = optax.scale_by_adam(b2=0.99)
  group = _layer_of(space.names)

  def model(
    x: Array, stack: ExpertStack
  ) -> Callable[[Any], tuple[Family, Params]]:
    c = space.quantise(x)
    program = space.program(c) if space.program else None
    return shared.merged(family, method, space.decode(c), stack, dtype, program)

  def measured(merged, heads, data, batches: Batches, weights) -> Array:
    total = jnp.zeros(())
    for part in data:
      own, params = merged(part)
      scores, slots = kinds.scores(own, params, heads, part, choices=True)
      target = None if batches.targets is None else batches.targets[slots]
      weight = weights[batches.task[slots]] * batches.share[slots]
      value = soft.objective(objective, scores, part.label, target)
      # Padding may be -inf, of which 0 times is not 0.
      total += jnp.sum(weight * jnp.where(weight > 0, value, 0.0))
    return total

  def step(i, rate, state: State, stack, heads, batches: Batches, weights):
    index = i % jax.tree.leaves(batches.data)[0].shape[0]
    data = jax.tree.map(lambda leaf: leaf[index], batches.data)

    def objective_at(x: Array) -> Array:
      return measured(model(x, stack), heads, data, batches, weights)

    value, gradient = jax.value_and_grad(objective_at)(state.x)
    gradient = jnp.where(state.moves, gradient, 0.0)
    finite = jnp.isfinite(value) & jnp.isfinite(gradient).all()
    update, moments = adam.update(gradient, state.adam)
    x = jnp.clip(state.x + rate * update, 0.0, 1.0)
    x = shrunk(x, state.moves, group, rate * shrinkage)
    moved = state._replace(x=jnp.where(state.moves, x, state.x), adam=moments)
    kept = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old), moved, state
    )
    return kept, jnp.where(finite, value, jnp.nan)

  def value(x, stack, heads, batches: Batches, weights) -> Array:
    merged = model(x, stack)
    values = jax.lax.map(
      lambda data: measured(merged, heads, data, batches, weights),
      batches.data,
    )
    return values.mean()

  def init(c: Array) -> State:
    c = jnp.asarray(c, jnp.float32)
    moves = jnp.asarray(free) & (space.active(c) if space.active else True)
    x = jnp.clip(space.encode(c), 0.0, 1.0)
    return State(x, moves, adam.init(x))

  return Ascent(
    init,
    _traced(step, item_sets),
    _traced(value, item_sets),
    jax.jit(space.quantise),
  )


def movable(space: SearchSpace) -> np.ndarray:
  """Which dimensions may follow a gradient, bool [D].

  Where the space does not say, it is by name: `METHOD.PARAMETER/...` or
  `PARAMETER/...` of one of `COEFFICIENTS` that is no category.
  """
  if space.smooth is not None:
    return np.asarray(space.smooth, bool)
  named = [
    name.partition('/')[0].rpartition('.')[2] in COEFFICIENTS
    for name in space.names
  ]
  number = (
    np.ones(len(space.names), bool)
    if space.choices is None
    else np.asarray(space.choices) == 0
  )
  return np.asarray(named, bool) & number


def shrunk(x: Array, moves: Array, group: np.ndarray, strength: Array) -> Array:
  """The proximal step of strength / 2 times squared distances to the means.

  Decoupled from Adam, as weight decay in https://arxiv.org/abs/1711.05101.

  Args:
    x: [D].
    moves: which dimensions move and count in means, bool [D].
    group: of which mean a dimension is part, int [D].
    strength: 0 leaves x as it is, inf gives the means.
  """
  size = int(group.max()) + 1
  count = jnp.zeros(size).at[group].add(moves.astype(x.dtype))
  total = jnp.zeros(size).at[group].add(jnp.where(moves, x, 0.0))
  mean = (total / jnp.maximum(count, 1.0))[group]
  return jnp.where(moves, x + strength / (1 + strength) * (mean - x), x)


def _layer_of(names: Sequence[str]) -> np.ndarray:
  """Dimensions that differ in their component alone have the same number."""
  owners = [name.rpartition('/')[0] or name for name in names]
  numbers = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
  return np.asarray([numbers[owner] for owner in owners])


def _traced(function: Callable[..., Any], most: int) -> Callable[..., Any]:
  """Jitted; RuntimeError when it is traced more than so often."""
  count = 0

  def run(*given):
    nonlocal count
    count += 1
    if count > most:
      raise RuntimeError(
        f'a gradient step for {most} item sets was traced {count} times; '
        'shapes must be fixed before a search'
      )
    return function(*given)

  return jax.jit(run)
