"""What a search evaluated, and what one would take from it at any time."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax.search import estimates, fronts

OTHER, START, ENDED = range(3)
_UNKNOWN = np.full(1, np.nan)


class Evaluated(NamedTuple):
  """One candidate on the items of one rung.

  Attributes:
    items: spent by the search when this was known.
    rung: items a task.
    c: coefficients [D].
    recipe: hash of the merge.
    values: objectives on search items, [M]; NaN where it could not be scored.
    kind: `START`, `ENDED` where a climb ended with it, or `OTHER`.
    likelihoods: the objectives' log-likelihoods [M] where a search looks at
      them, as ours does; else NaN.
    noise: variance of what chance adds to values, [M].
  """

  items: int
  rung: int
  c: np.ndarray
  recipe: str
  values: np.ndarray
  kind: int = OTHER
  likelihoods: np.ndarray = _UNKNOWN
  noise: np.ndarray = _UNKNOWN


def finalists(
  log: Sequence[Evaluated], items: int, most: int
) -> list[Evaluated]:
  """The best merges by search items, once so many items are spent.

  Those on the highest rung that was reached, by their mean objective as the
  search itself estimates it, different recipes, at most `most`; beside them the
  best start point there, so that a search that led nowhere is seen, and what
  climbs ended with.
  """
  top = list({one.recipe: one for one in _top(log, items)}.values())
  best: dict[str, Evaluated] = {}
  for i in np.argsort(-_likely(top).mean(-1), kind='stable'):
    one = top[i]
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
  search items, those with distant neighbours first, at most `most`; beside
  them all start points there: few items lose members that no search bettered.
  """
  top = list({one.recipe: one for one in _top(log, items)}.values())
  if not top:
    return []
  order = fronts.order(_likely(top))
  return [
    top[i] for n, i in enumerate(order) if n < most or top[i].kind == START
  ]


def _likely(top: Sequence[Evaluated]) -> np.ndarray:
  """Values [n, M]; one objective is drawn to its line, as ours does it."""
  if not top:
    return np.zeros((0, 1))
  values = np.stack([one.values for one in top])
  likelihoods = np.stack([one.likelihoods for one in top])
  if values.shape[1] > 1 or np.isnan(likelihoods).any():
    return values
  noise = float(top[0].noise[0])
  return estimates.drawn(values[:, 0], likelihoods[:, 0], noise)[:, None]


def write(path: pathlib.Path, log: Sequence[Evaluated]) -> None:
  """Keeps a log as arrays."""
  path.parent.mkdir(parents=True, exist_ok=True)
  columns = zip(Evaluated._fields, zip(*log, strict=True), strict=True)
  np.savez_compressed(path, **{name: np.stack(rows) for name, rows in columns})


def read(path: pathlib.Path) -> list[Evaluated]:
  """A log that was kept."""
  with np.load(path) as arrays:
    columns = [arrays[name] for name in Evaluated._fields if name in arrays]
  return [
    Evaluated(int(items), int(rung), c, str(recipe), values, int(kind), *rest)
    for items, rung, c, recipe, values, kind, *rest in zip(
      *columns, strict=True
    )
  ]


def _top(log: Sequence[Evaluated], items: int) -> list[Evaluated]:
  """All that was scored on the highest rung reached."""
  known = [
    one for one in log if one.items <= items and np.isfinite(one.values).all()
  ]
  rung = max((one.rung for one in known), default=0)
  return [one for one in known if one.rung == rung]
