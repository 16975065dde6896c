"""The two sealed splits: select chooses among finalists, held-out reports.

Search, spaces, merging and optimizers must not import this module.
"""

import functools

from automerge_jax.tasks import partition, sources
from automerge_jax.tasks.partition import Item


@functools.cache
def _sealed(task: str) -> dict[str, tuple[Item, ...]]:
  parts = partition.partition(task, sources.read(task))
  return {split: parts[split] for split in ('select', 'heldout')}


def select_items(task: str, n: int) -> tuple[Item, ...]:
  """The first n select items of a task: for choosing, never for searching.

  Raises:
    ValueError: if there are fewer.
  """
  return partition.take(_sealed(task)['select'], n, task, 'select')


def heldout_items(task: str, n: int) -> tuple[Item, ...]:
  """The first n held-out items of a task: scored once, in the report.

  Raises:
    ValueError: if there are fewer.
  """
  return partition.take(_sealed(task)['heldout'], n, task, 'heldout')
