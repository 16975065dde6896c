"""Climbs: proposals along the gradient, and how they keep from overfitting.

Gradients see a part of the search items; on the rest the objective is measured
every few steps, and the climb ends at the best step by it. Everything is fixed
by the start and the items, so a climb that is made again proposes the same.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from automerge_jax.search import gradient, lower, soft
from automerge_jax.search.objectives import Objectives
from automerge_jax.tasks import itemset
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import ExpertStack, Family, MergeMethod

COST = 3  # forward passes that a gradient step is charged for each item
SNAPSHOTS = 4  # candidates that a climb proposes
ORIGIN = 'gradient'


class Climb(NamedTuple):
  """How to climb.

  Attributes:
    steps: gradient steps, at most.
    rate: learning rate at the start, as a share of each range; it falls to 0
      by half a cosine.
    minibatches: into which the items that gradients see are dealt.
    objective: one of `soft.OBJECTIVES`.
    validation: share of each task's items that gradients do not see, in
      [0, 1); 0: the climb ends with its last step.
    shrinkage: see `gradient.ascent`.
    checks: measurements on validation items, besides that of the start.
    patience: it stops after so many checks without a better one.
  """

  steps: int
  rate: float
  minibatches: int
  objective: str
  validation: float = 0.0
  shrinkage: float = 0.0
  checks: int = 8
  patience: int = 3

  @property
  def between(self) -> int:
    """Steps between two checks."""
    return math.ceil(self.steps / self.checks)

  def rates(self) -> np.ndarray:
    """Learning rate of each step, [steps]."""
    share = np.arange(self.steps) / self.steps
    return (self.rate * (1 + np.cos(np.pi * share)) / 2).astype(np.float32)


class Shares(NamedTuple):
  """Items as a climb needs them: what gradients see, and validation."""

  train: gradient.Batches
  validation: gradient.Batches | None


def split(items: ItemSet, validation: float) -> tuple[np.ndarray, np.ndarray]:
  """Positions of what gradients see and of validation items, ascending.

  The latter are a share of each task, spread evenly over its labels.

  Raises:
    ValueError: if a task would have none of either.
  """
  mask = np.zeros(len(items), bool)
  sizes = np.bincount(items.task, minlength=len(items.tasks))
  for task, (size, count) in enumerate(
    zip(sizes, _held(sizes, validation), strict=True)
  ):
    if validation and not 0 < count < size:
      raise ValueError(
        f'task {items.tasks[task]!r} has {size} search items, too few to set '
        f'apart a share of {validation}; set gradient_validation to 0'
      )
    mine = np.flatnonzero(items.task == task)
    mine = mine[np.argsort(items.label[mine], kind='stable')]
    mask[
      mine[((np.arange(count) + 0.5) * size / max(count, 1)).astype(int)]
    ] = 1
  return np.flatnonzero(~mask), np.flatnonzero(mask)


def prepare(
  climb: Climb,
  family: Family,
  method: MergeMethod,
  stack: ExpertStack,
  heads: Any,
  items: ItemSet,
  own: Sequence[int | None],
  dtype: str = 'float32',
) -> Shares:
  """Items on the device, with targets where the objective needs them.

  Args:
    climb: how to climb.
    family: of the models.
    method: how to merge.
    stack: base and experts on the device.
    heads: stacked task heads.
    items: all search items, or those of a rung.
    own: index of each task's own expert in the stack, None without one.
    dtype: in which models compute.
  """
  sets = [itemset.subset(items, at) for at in split(items, climb.validation)]
  count = [climb.minibatches]  # of about as many items for validation
  count.append(math.ceil(len(sets[1]) * climb.minibatches / len(sets[0])))

  def arrays(part: ItemSet, count: int) -> gradient.Batches:
    targets = None
    if climb.objective == 'experts':
      targets = soft.targets(family, method, stack, heads, part, own, dtype)
    made = gradient.batches(part, count, targets)
    kept = lower.carried(family, stack, made.data, dtype)
    return made._replace(data=kept)

  train = arrays(sets[0], count[0])
  return Shares(train, arrays(sets[1], count[1]) if len(sets[1]) else None)


def run(
  climb: Climb,
  ascent: gradient.Ascent,
  shares: Shares,
  stack: ExpertStack,
  heads: Any,
  start: np.ndarray,
  weights: np.ndarray,
  timed: Callable[[str], Any] = lambda kind: contextlib.nullcontext(),
) -> list[tuple[str, np.ndarray]]:
  """Proposals: two on the way, the end, and the mean of the late steps.

  Origins are `gradient:half@STEP`, `gradient:late@STEP`, `gradient:end@STEP`
  (the best by validation) and `gradient:mean@STEPS`, the steps that were made:
  fewer than planned after bad checks, or a step whose gradient is not finite,
  which changes nothing.

  Args:
    climb: how to climb.
    ascent: `gradient.ascent`, made once for all climbs of a search.
    shares: what `prepare` made.
    stack: base and experts on the device.
    heads: stacked task heads.
    start: coefficients [D].
    weights: of the tasks in the objective, [tasks].
    timed: context that is told 'compilation' or 'gradient'.
  """
  share = jnp.asarray(weights / np.sum(weights), jnp.float32)
  state = ascent.init(jnp.asarray(start))
  path = [np.asarray(state.x)]
  checked: dict[int, float] = {}

  def check() -> bool:
    """Whether to go on."""
    if shares.validation is None:
      return True
    made = len(path) - 1
    with timed('gradient' if checked else 'compilation'):
      value = float(
        ascent.value(state.x, stack, heads, shares.validation, share)
      )
    checked[made] = value if np.isfinite(value) else -np.inf
    order = list(checked)
    waited = len(order) - 1 - order.index(_best(checked))
    return waited < climb.patience

  check()
  for i, rate in enumerate(climb.rates()):
    with timed('gradient' if i else 'compilation'):
      state, value = ascent.step(
        jnp.int32(i), rate, state, stack, heads, shares.train, share
      )
      finite = bool(jnp.isfinite(value))
    path.append(np.asarray(state.x))
    made = len(path) - 1
    due = made % climb.between == 0 or made == climb.steps
    if (due and not check()) or not finite:
      break
  made = len(path) - 1
  end = _best(checked) if checked else made
  late = np.mean(path[made // 2 + 1 :] or path, axis=0)
  found = {
    f'half@{made // 2}': path[made // 2],
    f'late@{3 * made // 4}': path[3 * made // 4],
    f'end@{end}': path[end],
    f'mean@{made}': late,
  }
  return [
    (f'{ORIGIN}:{name}', np.asarray(ascent.c(jnp.asarray(x))))
    for name, x in found.items()
  ]


def cost(climb: Climb, sizes: Sequence[int], steps: int | None = None) -> int:
  """Items that a climb is charged.

  A step costs three forward passes on a minibatch, a check one on the
  validation items.

  Args:
    climb: how to climb.
    sizes: items of each task, [tasks].
    steps: that were made, see `steps_made`; None: all of them.
  """
  made = climb.steps if steps is None else steps
  held = sum(_held(np.asarray(sizes), climb.validation))
  seen = sum(sizes) - held
  last = made == climb.steps and made % climb.between > 0
  checks = 1 + made // climb.between + last
  return round(COST * made * seen / climb.minibatches) + int(held) * checks


def cost_of_targets(
  climb: Climb, items: ItemSet, own: Sequence[int | None]
) -> int:
  """Items that the experts' targets are charged, once a search."""
  if climb.objective != 'experts':
    return 0
  return int(soft.has_target(items, own).sum())


def steps_made(origins: Sequence[str]) -> int | None:
  """Steps of the climb that made these proposals, None if none did."""
  made = [
    o.partition('@')[2] for o in origins if o.startswith(f'{ORIGIN}:mean')
  ]
  return int(made[0]) if made else None


def weighting(objectives: Objectives, turn: int) -> np.ndarray:
  """Weights of the tasks, [tasks], for each climb another: 0 for all alike.

  Later turns give half of the weight to one objective after another.
  """
  every = np.mean([one.weights for one in objectives.each], axis=0)
  if not turn:
    return every
  one = objectives.each[(turn - 1) % len(objectives.each)]
  return (every + one.weights) / 2


def _held(sizes: np.ndarray, validation: float) -> np.ndarray:
  """Validation items of each task, [tasks]."""
  return np.rint(np.asarray(sizes) * validation).astype(int)


def _best(checked: dict[int, float]) -> int:
  """The step with the highest value, the first of equal ones."""
  return max(checked, key=lambda step: (checked[step], -step))
