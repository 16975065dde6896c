"""What a search evaluated, and what one would take from it at any time."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax.search import fronts


class Evaluated(NamedTuple):
  """One candidate on the items of one rung.

  Attributes:
    items: spent by the search when this was known.
    rung: items a task.
    c: coefficients [D].
    recipe: hash of the merge.
    values: objectives on search items, [M]; NaN where it could not be scored.
    ended: whether a climb ended with it, so that it is always considered.
  """

  items: int
  rung: int
  c: np.ndarray
  recipe: str
  values: np.ndarray
  ended: bool = False


def finalists(
  log: Sequence[Evaluated], items: int, most: int
) -> list[Evaluated]:
  """The best merges by search items, once so many items are spent.

  Those on the highest rung that was reached, by their mean objective, different
  recipes, at most `most`; and what climbs ended with.
  """
  top = _top(log, items)
  top.sort(key=lambda one: -float(one.values.mean()))
  found = {one.recipe: one for one in reversed(top)}
  best = sorted(found.values(), key=lambda one: -float(one.values.mean()))
  kept = {one.recipe: one for one in best[:most]}
  kept |= {one.recipe: one for one in log if one.ended and one.items <= items}
  return list(kept.values())


def front(log: Sequence[Evaluated], items: int, most: int) -> list[Evaluated]:
  """Candidates for a front, once so many items are spent.

  Different merges on the highest rung that was reached, front by front on
  search items, those with distant neighbours first, at most `most`.
  """
  top = list({one.recipe: one for one in _top(log, items)}.values())
  if not top:
    return []
  values = np.stack([one.values for one in top])
  return [top[i] for i in fronts.order(values)[:most]]


def _top(log: Sequence[Evaluated], items: int) -> list[Evaluated]:
  """All that was scored on the highest rung reached."""
  known = [
    one for one in log if one.items <= items and np.isfinite(one.values).all()
  ]
  rung = max((one.rung for one in known), default=0)
  return [one for one in known if one.rung == rung]
