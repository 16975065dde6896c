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
  task: str, n: int, force_test_split: bool = False
) -> tuple[Item, ...]:
  """The first n search items of a task, stratified; rungs are its prefixes.

  Args:
    task: as `definitions.read` takes it.
    n: how many.
    force_test_split: whether items of a test split may be searched on.

  Raises:
    ValueError: if there are fewer.
  """
  items = _open(str(task), force_test_split)['search']
  return partition.take(items, n, task, 'search')
