"""The two sealed splits: select chooses among finalists, held-out reports.

Search, spaces, merging and optimizers must not import this module.
"""

import functools

from automerge_jax.tasks import definitions, division, partition
from automerge_jax.tasks.partition import Item


@functools.cache
def _sealed(
  reference: str, force_test_split: bool = False
) -> dict[str, tuple[Item, ...]]:
  parts = division.divide(
    definitions.read(reference, force_test_split=force_test_split)
  )
  return {split: parts[split] for split in ('select', 'heldout')}


def select_items(
  task: str, n: int, force_test_split: bool = False
) -> tuple[Item, ...]:
  """The first n select items of a task: for choosing, never for searching.

  Args:
    task: as `definitions.read` takes it.
    n: how many.
    force_test_split: whether items of a test split may be searched on.

  Raises:
    ValueError: if there are fewer.
  """
  items = _sealed(str(task), force_test_split)['select']
  return partition.take(items, n, task, 'select')


def heldout_items(
  task: str, n: int, force_test_split: bool = False
) -> tuple[Item, ...]:
  """The first n held-out items of a task: scored once, in the report.

  Args:
    task: as `definitions.read` takes it.
    n: how many.
    force_test_split: whether items of a test split may be searched on.

  Raises:
    ValueError: if there are fewer.
  """
  items = _sealed(str(task), force_test_split)['heldout']
  return partition.take(items, n, task, 'heldout')
