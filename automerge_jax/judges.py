"""Whole models on the items of a split.

Only this module and the experts' own reports open the sealed items.
"""

import functools
from collections.abc import Sequence

from automerge_jax.search import selection, study
from automerge_jax.search.job import Job
from automerge_jax.search.ledger import Ledger
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import sealed, splits
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import SearchSpace


def item_set(split: str, settings: Settings, job: Job) -> ItemSet:
  """Items of 'search', 'select' or 'heldout', as many as settings say."""
  own = functools.partial(splits.search_items, seed=settings.seed)
  source, n = {
    'search': (own, settings.rungs[-1]),
    'select': (sealed.select_items, settings.select),
    'heldout': (sealed.heldout_items, settings.heldout),
  }[split]
  return job.items(
    {
      name: source(place, n, settings.force_test_split)
      for name, place in job.references.items()
    }
  )


def judge(
  split: str,
  settings: Settings,
  job: Job,
  ledger: Ledger,
  known: Sequence[Ledger],
  space: SearchSpace | None = None,
) -> selection.Judge:
  """A judge over the items of a split; `space` where layers may move."""
  positions = None
  if space is not None and space.program is not None:
    positions = study.positions(space)
  return selection.judge(
    job.family,
    job.heads,
    item_set(split, settings, job),
    f'{split}/{job.setting}',
    ledger,
    job.folders,
    known,
    settings.dtype,
    positions,
    job.merge,
  )
