"""Rungs: nested item subsets, and who is promoted from one to the next."""

import itertools
from collections.abc import Sequence

import numpy as np

from automerge_jax.tasks.itemset import ItemSet


def increments(
  items: ItemSet, sizes: Sequence[int], seed: int
) -> tuple[np.ndarray, ...]:
  """Positions of the items that each rung adds to the one below.

  Rungs are nested random subsets, stratified by task and label, and the same
  for every candidate.

  Args:
    items: the search items.
    sizes: items a task at each rung, ascending.
    seed: of the random order.

  Raises:
    ValueError: if sizes do not ascend or a task has fewer items.
  """
  if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 1:
    raise ValueError(f'rung sizes {list(sizes)}: expected ascending counts')
  rng = np.random.default_rng(seed)
  order = {}
  for task, name in enumerate(items.tasks):
    positions = np.flatnonzero(items.task == task)
    if len(positions) < sizes[-1]:
      raise ValueError(
        f'task {name!r} has {len(positions)} search items, the last rung needs '
        f'{sizes[-1]}'
      )
    order[task] = positions[_stratified(items.label[positions], rng)]
  bounds = [0, *sizes]
  return tuple(
    np.concatenate([order[task][low:high] for task in order])
    for low, high in itertools.pairwise(bounds)
  )


def by_task(scores: np.ndarray, tasks: np.ndarray) -> np.ndarray:
  """Mean over the items of each task, [tasks].

  Args:
    scores: [n].
    tasks: index of each item's task, [n].
  """
  return np.asarray(
    [scores[tasks == t].mean(dtype=np.float64) for t in np.unique(tasks)]
  )


def promoted(values: np.ndarray, most: int) -> np.ndarray:
  """Indices of the best values, at most `most`, best first; never a NaN."""
  order = np.argsort(
    -np.where(np.isnan(values), -np.inf, values), kind='stable'
  )
  return np.asarray([i for i in order if not np.isnan(values[i])][:most], int)


def ranks(rungs: Sequence[np.ndarray]) -> np.ndarray:
  """Scores that respect fidelity: who got further comes first.

  Args:
    rungs: the objective of every candidate at each rung [P], NaN where it was
      not scored or failed.

  Returns:
    P - rank, so higher is better, [P]: candidates of the highest rung first,
    ordered by it, then those below; failed ones last. Numbers of different
    rungs are never compared.
  """
  reached = np.full(len(rungs[0]), -1)
  value = np.full(len(rungs[0]), -np.inf)
  for rung, values in enumerate(rungs):
    scored = ~np.isnan(values)
    reached[scored], value[scored] = rung, values[scored]
  order = np.lexsort((-value, -reached))
  result = np.empty(len(order))
  result[order] = np.arange(len(order), 0, -1)
  return result


def _stratified(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """A random order in which every prefix has the labels in proportion."""
  place = np.empty(len(labels))
  for label in np.unique(labels):
    mine = rng.permutation(np.flatnonzero(labels == label))
    place[mine] = (np.arange(len(mine)) + rng.random(len(mine))) / len(mine)
  return np.argsort(place, kind='stable')
