"""The two open splits: what training and search may see.

Nothing here leads to the select or held-out items; those come from `sealed`,
which only selection, reports and evaluation use.
"""

import functools

from automerge_jax.tasks import definitions, division, partition
from automerge_jax.tasks.partition import Item


@functools.cache
def _open(
  reference: str, force_test_split: bool = False
) -> dict[str, tuple[Item, ...]]:
  parts = division.divide(
    definitions.read(reference, force_test_split=force_test_split)
  )
  return {split: parts[split] for split in ('train', 'search')}


def train_items(
  task: str, n: int, force_test_split: bool = False
) -> tuple[Item, ...]:
  """The first n training items of a task, stratified.

  Args:
    task: as `definitions.read` takes it.
    n: how many.
    force_test_split: whether items of a test split may be searched on.

  Raises:
    ValueError: if there are fewer.
  """
  items = _open(str(task), force_test_split)['train']
  return partition.take(items, n, task, 'train')


def search_items(
  task: str, n: int, force_test_split: bool = False, seed: int = 0
) -> tuple[Item, ...]:
  """n search items of a task, stratified; rungs are subsets of them.

  Seed 0 takes the first n, each further one the next n, round and round, so
  that searches of different seeds learn from different items where there are
  enough.

  Args:
    task: as `definitions.read` takes it.
    n: how many.
    force_test_split: whether items of a test split may be searched on.
    seed: of the search.

  Raises:
    ValueError: if there are fewer.
  """
  items = _open(str(task), force_test_split)['search']
  begin = seed * n % len(items) if items else 0
  return partition.take(items[begin:] + items[:begin], n, task, 'search')
