"""Racing inside a rung: who is behind beyond doubt is scored no further.

The items that a rung adds are dealt in equal blocks, and after each a candidate
is compared with its rivals item by item. The test is sequential and its error
rate is stated: of candidates that are as good as every rival (in at least one
objective, if there are several), at most that share is ever stopped in a rung.

The statistic is a self-normalised sum of weighted differences d_i = w_t (mine -
theirs) / n_t, where w_t is the weight and n_t the items of the item's task:

  z = -(sum d_i + d) / sqrt(sum d_i^2 + d^2),   d = max |d_i|

that is, as if one more item had come out for the candidate by as much as any
has yet. For right and wrong answers of one task it is McNemar's statistic
(losses - wins - 1) / sqrt(losses + wins + 1), whose exact tail is below the
normal one. It is bounded by the root of the number of items, so that a handful
of items, whatever they say, stops nobody, and one outlier does not either.
Looks and rivals share the error rate equally (union bound).

What the rate holds for: differences that are symmetric when models are equally
good, which those of right and wrong are, with tails of any weight; and by
simulation skewed ones up to exponential. No test of a mean holds where few
large gains outweigh many small losses: for a log-normal the share is twice that
stated on 64 items, and as stated on 400.
The rival may have been chosen by the same items: then read "as good as" as "who
would be level with it on all items of the rung", which are dealt at random.

Self-normalised sums: Efron, JASA 64, 1969; McNemar, Psychometrika 12, 1947.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from automerge_jax.search.objectives import METRICS
from automerge_jax.tasks import kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import Array

ROUNDING = 1e-4  # smaller differences are between models that are the same


class Race(NamedTuple):
  """What is fixed of a race before a search.

  Attributes:
    looks: blocks in which a rung's items are dealt; a candidate can be stopped
      after each but the last.
    error: most of the candidates that are as good as their rivals that it may
      stop in a rung, as a share.
    metrics: of the M objectives, 'accuracy' or 'log_likelihood'.
  """

  looks: int
  error: float
  metrics: tuple[str, ...]


class Pairs(NamedTuple):
  """What is left of differences item by item, mine minus theirs.

  All float32 [J, M, tasks], of a population [P, J, M, tasks].

  Attributes:
    count: items that both have.
    total: sum of the differences.
    square: sum of their squares.
    largest: largest absolute difference.
  """

  count: Array
  total: Array
  square: Array
  largest: Array


class Rivals(NamedTuple):
  """Whom the candidates of one call race.

  Attributes:
    values: of J rivals in M objectives on the items that the rung adds, in
      their order, [J, M, n]; NaN where a rival was not scored.
    counts: which of them there are, bool [J].
    weights: of the tasks in each objective, [M, tasks].
    task: index of each item's task, int32 [n].
    below: each candidate's differences on the items of lower rungs, leaves
      [P, J, M, tasks], see `population_pairs`.
  """

  values: Array
  counts: Array
  weights: Array
  task: Array
  below: Pairs


def race(looks: int, error: float, metrics: Sequence[str]) -> Race:
  """A race, checked.

  Raises:
    ValueError: for less than two looks, an error rate that is not between 0
      and 0.5, no metric or an unknown one.
  """
  if looks < 2:
    raise ValueError(
      f'a race with looks={looks} stops nobody; expected at least 2'
    )
  if not 0 < error < 0.5:
    raise ValueError(
      f'error rate {error} of a race: expected more than 0 and less than 0.5'
    )
  unknown = [name for name in metrics if name not in METRICS]
  if unknown or not metrics:
    raise ValueError(
      f'metrics {list(metrics)} of a race: expected one of {METRICS} for each '
      'objective'
    )
  return Race(looks, error, tuple(metrics))


def possible(items: ItemSet) -> str | None:
  """Why these items cannot be raced for, or None if they can.

  What only the host can judge is not known between two blocks.
  """
  for task in items.definitions:
    kind = kinds.of(task)
    if kind.finish is not None or not kind.data:
      return (
        f'task {task.name!r} is of the kind {task.kind!r}, whose items are '
        'not judged on the device'
      )
  return None


def values(scores: Any, metrics: Sequence[str]) -> Array:
  """What each objective sees of item scores [..., n]: [..., M, n].

  Args:
    scores: anything with a `score` and a `log_likelihood`.
    metrics: of the objectives.
  """
  of = {'accuracy': scores.score, 'log_likelihood': scores.log_likelihood}
  return jnp.stack([of[metric] for metric in metrics], -2)


def pairs(mine: Array, theirs: Array, task: Array, num_tasks: int) -> Pairs:
  """Differences on common items; pure and jittable.

  Args:
    mine: values of a candidate [M, n], NaN where there are none.
    theirs: of its rivals, [J, M, n], likewise.
    task: index of each item's task, int32 [n].
    num_tasks: number of tasks.
  """
  chex.assert_rank([mine, theirs, task], [2, 3, 1])
  gap = (mine[None] - theirs).astype(jnp.float32)  # [J, M, n]
  known = jnp.isfinite(gap)
  gap = jnp.where(known & (jnp.abs(gap) > ROUNDING), gap, 0.0)
  of_task = jnp.arange(num_tasks)[:, None] == task[None]  # [tasks, n]

  def each_task(values: Array) -> Array:  # [J, M, tasks, n]
    return values[:, :, None] * of_task[None, None].astype(values.dtype)

  gap = each_task(gap)
  return Pairs(
    jnp.sum(each_task(known.astype(gap.dtype)), -1),
    jnp.sum(gap, -1),
    jnp.sum(jnp.square(gap), -1),
    jnp.max(jnp.abs(gap), -1, initial=0.0),
  )


@functools.partial(jax.jit, static_argnums=3)
def population_pairs(
  mine: Array, theirs: Array, task: Array, num_tasks: int
) -> Pairs:
  """As `pairs` of P candidates [P, M, n]; of no items they are all zero."""
  return jax.vmap(lambda one: pairs(one, theirs, task, num_tasks))(mine)


def together(a: Pairs, b: Pairs) -> Pairs:
  """Of the items of both, which have none in common."""
  return Pairs(
    a.count + b.count,
    a.total + b.total,
    a.square + b.square,
    jnp.maximum(a.largest, b.largest),
  )


def statistic(found: Pairs, weights: Array) -> Array:
  """By how many standard errors a candidate is behind, [J, M].

  0 where there is no difference, or no item yet of a task that counts.

  Args:
    found: leaves [J, M, tasks].
    weights: of the tasks, [M, tasks].
  """
  weights = weights[None]
  matters = weights > 0
  each = jnp.where(matters, weights / jnp.maximum(found.count, 1.0), 0.0)
  largest = jnp.max(each * found.largest, -1)
  total = jnp.sum(each * found.total, -1) + largest
  square = jnp.sum(jnp.square(each) * found.square, -1) + jnp.square(largest)
  told = jnp.all(~matters | (found.count > 0), -1) & (square > 0)
  return jnp.where(told, -total / jnp.sqrt(jnp.where(told, square, 1.0)), 0.0)


def stopped(race: Race, found: Pairs, weights: Array, counts: Array) -> Array:
  """Whether a candidate is behind a rival in every objective, bool [].

  One look; the level is that of one of all looks of a rung and of all rivals
  that there are.

  Args:
    race: looks and error rate.
    found: all differences so far, leaves [J, M, tasks].
    weights: of the tasks in each objective, [M, tasks].
    counts: which rivals there are, bool [J].
  """
  tests = (race.looks - 1) * jnp.maximum(jnp.sum(counts), 1)
  bound = -jax.scipy.special.ndtri(race.error / tests)
  behind = jnp.all(statistic(found, weights) >= bound, -1)  # [J]
  return jnp.any(behind & counts)
