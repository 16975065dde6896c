"""Gradient ascent on coefficients, which a differentiable merge allows.

Merge and forward pass are differentiable in the coefficients, so a soft
objective on search items says in which direction all D of them should move, at
the cost of about three forward passes. Stored as proposals like any other, the
steps seed the evolutionary search.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from automerge_jax.search import shared
from automerge_jax.tasks import kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import (
  Array,
  ExpertStack,
  Family,
  ItemScores,
  MergeMethod,
  SearchSpace,
)


class Batches(NamedTuple):
  """Search items in equal minibatches.

  Attributes:
    data: see `kinds.minibatches`, leaves [minibatches, ...].
    weights: weight of each item in the objective, [n + 1], 0 for padding; over
      the items of a minibatch they sum to 1 in expectation.
    size: items in a minibatch, padding left out, on average.
  """

  data: tuple[Any, ...]
  weights: Array
  size: float


def batches(items: ItemSet, count: int) -> Batches:
  """Deals the items to `count` minibatches in turn.

  Items come task by task, each in random order, so every minibatch holds about
  the same share of every task; all have the same shapes.
  """
  per_task = np.bincount(items.task, minlength=len(items.tasks))
  # Unweighted mean over tasks: an item counts by the size of its task.
  value = count / (len(items.tasks) * per_task)
  return Batches(
    kinds.minibatches(items, count),
    jnp.asarray(np.append(value[items.task], 0.0), jnp.float32),
    len(items) / count,
  )


class Ascent(NamedTuple):
  """Gradient ascent as pure functions.

  Attributes:
    init: `x [D] -> state`.
    step: `(i, state, stack, heads, batches) -> (state, objective)`, jitted;
      step i uses minibatch i modulo their number.
    x: `state -> x [D]`.
  """

  init: Callable[..., tuple]
  step: Callable[..., tuple]
  x: Callable[[tuple], Array]


def ascent(
  family: Family,
  method: MergeMethod,
  space: SearchSpace,
  objective: str,
  learning_rate: float,
  steps: int,
  dtype: str = 'float32',
) -> Ascent:
  """Adam with a cosine schedule on x in [0, 1]^D, projected on the box.

  Args:
    family: the models' family.
    method: how to merge.
    space: decodes x; its rounding passes gradients through.
    objective: 'log_likelihood', or 'accuracy', whose soft form is the
      probability of the right answer.
    learning_rate: of Adam, as a share of each range.
    steps: length of the schedule.
    dtype: in which merged models compute.
  """
  optimizer = optax.adam(
    optax.cosine_decay_schedule(learning_rate, steps), b2=0.99
  )

  def value(x, stack: ExpertStack, heads, data, weights) -> Array:
    c = space.quantise(x)
    program = space.program(c) if space.program else None
    model = shared.merged(
      family, method, space.decode(c), stack, dtype, program
    )
    total = jnp.zeros(())
    for part in data:
      scores, slots = kinds.scores(*model(part), heads, part)
      total += jnp.sum(weights[slots] * soft(scores, objective))
    return total

  def step(i, state, stack, heads, batches: Batches):
    x, opt_state = state
    index = i % jax.tree.leaves(batches.data)[0].shape[0]
    data = jax.tree.map(lambda leaf: leaf[index], batches.data)
    result, gradient = jax.value_and_grad(value)(
      x, stack, heads, data, batches.weights
    )
    updates, opt_state = optimizer.update(-gradient, opt_state)
    x = jnp.clip(optax.apply_updates(x, updates), 0.0, 1.0)
    return (x, opt_state), result

  def init(x: Array):
    x = jnp.asarray(x, jnp.float32)
    return x, optimizer.init(x)

  return Ascent(init, jax.jit(step), lambda state: state[0])


def soft(scores: ItemScores, objective: str) -> Array:
  """The differentiable form of an objective, item by item."""
  if objective == 'accuracy':
    return jnp.exp(scores.log_likelihood)
  return scores.log_likelihood
