"""What a search evaluated, and what one would take from it at any time."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax.search import fronts

OTHER, START, ENDED = range(3)


class Evaluated(NamedTuple):
  """One candidate on the items of one rung.

  Attributes:
    items: spent by the search when this was known.
    rung: items a task.
    c: coefficients [D].
    recipe: hash of the merge.
    values: objectives on search items, [M]; NaN where it could not be scored.
    kind: `START`, `ENDED` where a climb ended with it, or `OTHER`.
  """

  items: int
  rung: int
  c: np.ndarray
  recipe: str
  values: np.ndarray
  kind: int = OTHER


def finalists(
  log: Sequence[Evaluated], items: int, most: int
) -> list[Evaluated]:
  """The best merges by search items, once so many items are spent.

  Those on the highest rung that was reached, by their mean objective, different
  recipes, at most `most`; beside them the best start point there, so that a
  search that led nowhere is seen, and what climbs ended with.
  """
  top = sorted(_top(log, items), key=lambda one: -float(one.values.mean()))
  best: dict[str, Evaluated] = {}
  for one in top:
    best.setdefault(one.recipe, one)
  kept = dict(list(best.items())[:most])
  for one in [one for one in best.values() if one.kind == START][:1]:
    kept.setdefault(one.recipe, one)
  for one in log:
    if one.kind == ENDED and one.items <= items:
      kept.setdefault(one.recipe, one)
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


def write(path: pathlib.Path, log: Sequence[Evaluated]) -> None:
  """Keeps a log as arrays."""
  path.parent.mkdir(parents=True, exist_ok=True)
  columns = zip(Evaluated._fields, zip(*log, strict=True), strict=True)
  np.savez_compressed(path, **{name: np.stack(rows) for name, rows in columns})


def read(path: pathlib.Path) -> list[Evaluated]:
  """A log that was kept."""
  with np.load(path) as arrays:
    columns = [arrays[name] for name in Evaluated._fields]
  return [
    Evaluated(int(items), int(rung), c, str(recipe), values, int(kind))
    for items, rung, c, recipe, values, kind in zip(*columns, strict=True)
  ]


def _top(log: Sequence[Evaluated], items: int) -> list[Evaluated]:
  """All that was scored on the highest rung reached."""
  known = [
    one for one in log if one.items <= items and np.isfinite(one.values).all()
  ]
  rung = max((one.rung for one in known), default=0)
  return [one for one in known if one.rung == rung]
