"""Soft objectives: what gradients of coefficients climb, item by item.

Those that compare answers need a finite set of them (classes, also of images;
choices). Items without one, such as texts and generated answers, count by their
log-likelihood instead, by the probability of a token under 'accuracy'.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import base as models
from automerge_jax.search import shared
from automerge_jax.tasks import itemset, kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import (
  Array,
  ExpertStack,
  Family,
  ItemScores,
  MergeMethod,
  Parameter,
)

OBJECTIVES = ('log_likelihood', 'accuracy', 'margin', 'experts')
FINITE = ('classification', 'images', 'choice')  # kinds with a set of answers
_MARGIN = 4.0  # nats in which a margin saturates


def objective(
  name: str, scores: ItemScores, label: Array, target: Array | None = None
) -> Array:
  """The differentiable form of an objective, [m], higher is better.

  'log_likelihood': of the right answer. 'accuracy': its probability. 'margin':
  tanh of how far it is ahead of the best wrong one, in units of 4 nats, so that
  neither hopeless nor sure items count. 'experts': distillation, minus the
  cross-entropy to the answers' probabilities of the task's own expert; where
  there is none, to the label.

  Args:
    name: one of `OBJECTIVES`.
    scores: with `choices` [m, C].
    label: index of the right answer, int32 [m].
    target: probabilities by the experts, [m, any]; rows of 0 have none.

  Raises:
    ValueError: for another name, or 'experts' without targets.
  """
  if name not in OBJECTIVES:
    raise ValueError(f'objective is {name!r}; expected one of {OBJECTIVES}')
  likelihood = scores.log_likelihood
  if name == 'log_likelihood':
    return likelihood
  choices = scores.choices
  if choices is None:
    return jnp.exp(likelihood) if name == 'accuracy' else likelihood
  exists = jnp.isfinite(choices)
  compared = exists.sum(-1) > 1
  if name == 'accuracy':
    return jnp.where(compared, jnp.exp(likelihood), scores.score)
  if name == 'margin':
    right = jnp.arange(choices.shape[-1])[None] == label[:, None]
    wrong = exists & ~right
    best = jnp.max(jnp.where(wrong, choices, -jnp.inf), -1)
    ahead = likelihood - jnp.where(compared, best, 0.0)
    return jnp.where(compared, jnp.tanh(ahead / _MARGIN), likelihood)
  if target is None:
    raise ValueError("the objective 'experts' needs targets, see `targets`")
  width = choices.shape[-1]
  target = jnp.pad(
    target[:, :width], ((0, 0), (0, max(0, width - target.shape[-1])))
  )
  told = compared & (target.sum(-1) > 0)
  entropy = jnp.sum(target * jnp.where(exists, choices, 0.0), -1)
  return jnp.where(told, entropy, likelihood)


def targets(
  family: Family,
  method: MergeMethod,
  stack: ExpertStack,
  heads: Mapping[str, Array],
  items: ItemSet,
  own: Sequence[int | None],
  dtype: str = 'float32',
) -> np.ndarray:
  """Probabilities of the answers by each task's own expert, [n + 1, C].

  Each item is run once, by one model. Rows are 0 for items of tasks without an
  expert or a set of answers, and for padding, the last.

  Args:
    family: of the models.
    method: that the stack was made for.
    stack: base and experts on the device.
    heads: stacked task heads.
    items: n of them.
    own: index of each task's own expert in the stack, None without one.
    dtype: in which models compute.
  """
  pick = dataclasses.replace(
    method,
    merge=_weights if method.stack == 'weights' else _deltas,
    parameters=(Parameter('expert', 0.0, False),),
    switch=False,
  )

  @jax.jit
  def choices(expert, stack, heads, data):
    plan = {
      path: {
        'expert': jnp.full(
          (len(rows),) if path.startswith('layers/') else (), expert
        )
      }
      for path, rows in models.by_leaf(family.keys).items()
    }
    model = shared.merged(family, pick, plan, stack, dtype)
    found = [kinds.scores(*model(one), heads, one, True) for one in data]
    return [(scores.choices, slots) for scores, slots in found]

  told = has_target(items, own)
  rows: list[tuple[np.ndarray, np.ndarray]] = []
  for expert in sorted({k for k in own if k is not None}):
    mine = [t for t, k in enumerate(own) if k == expert]
    at = np.flatnonzero(told & np.isin(items.task, mine))
    if not len(at):
      continue
    data = kinds.arrays(itemset.subset(items, at))
    place = np.append(at, len(items))
    for found, slots in jax.device_get(
      choices(jnp.int32(expert), stack, heads, data)
    ):
      rows.append((np.exp(found), place[slots]))
  width = max((found.shape[-1] for found, _ in rows), default=1)
  result = np.zeros((len(items) + 1, width), np.float32)
  for found, place in rows:
    result[place, : found.shape[-1]] = found
  result[-1] = 0
  return result


def has_target(items: ItemSet, own: Sequence[int | None]) -> np.ndarray:
  """Which items have a set of answers and a task with an expert, bool [n]."""
  tasks = [
    own[t] is not None and task.kind in FINITE
    for t, task in enumerate(items.definitions)
  ]
  return np.asarray(tasks, bool)[items.task]


def _weights(coefficients, facts, base, stack) -> Array:
  del facts, base
  return stack[coefficients['expert']]


def _deltas(coefficients, facts, base, stack) -> Array:
  del facts
  return base + stack[coefficients['expert']]
