"""The two open splits: what training and search may see.

Nothing here leads to the select or held-out items; those come from `sealed`,
which only selection, reports and evaluation use.
"""

import functools

from automerge_jax.tasks import partition, sources
from automerge_jax.tasks.partition import Item


@functools.cache
def _open(task: str) -> dict[str, tuple[Item, ...]]:
  parts = partition.partition(task, sources.read(task))
  return {split: parts[split] for split in ('train', 'search')}


def train_items(task: str, n: int) -> tuple[Item, ...]:
  """The first n training items of a task, stratified.

  Raises:
    ValueError: if there are fewer.
  """
  return partition.take(_open(task)['train'], n, task, 'train')


def search_items(task: str, n: int) -> tuple[Item, ...]:
  """The first n search items of a task, stratified; rungs are its prefixes.

  Raises:
    ValueError: if there are fewer.
  """
  return partition.take(_open(task)['search'], n, task, 'search')
