"""Climbs as a part of a search: from where, and what they cost."""

import functools
from collections.abc import Sequence

import numpy as np

from automerge_jax.search import climb, gradient
from automerge_jax.search.ledger import Candidate
from automerge_jax.search.plan import Study
from automerge_jax.search.rungs import RungScorer
from automerge_jax.tasks.itemset import ItemSet


class Climber:
  """Proposes along the gradient; compiles once, and only if it has to.

  Attributes:
    targets: items that the experts' targets are charged, once.
  """

  def __init__(self, study: Study, scorer: RungScorer, items: ItemSet):
    self._study, self._scorer, self._items = study, scorer, items
    sizes = np.bincount(items.task, minlength=len(items.tasks))
    self._sizes: Sequence[int] = sizes.tolist()
    self.targets = 0
    if study.climb is not None:
      self.targets = climb.cost_of_targets(study.climb, items, study.own)

  @property
  def _origins(self) -> list[list[str]]:
    """Origins of each climb's proposals."""
    found: dict[int, list[str]] = {}
    for row in self._scorer.rows:
      if row.candidate.origin.startswith(climb.ORIGIN):
        found.setdefault(row.generation, []).append(row.candidate.origin)
    return list(found.values())

  @property
  def turn(self) -> int:
    """Climbs that were made, now or before."""
    return len(self._origins)

  @property
  def items(self) -> int:
    """Items that all climbs were charged, now or before."""
    how, made = self._study.climb, self._origins
    if how is None or not made:
      return 0
    return self.targets + sum(
      climb.cost(how, self._sizes, climb.steps_made(origins))
      for origins in made
    )

  @property
  def cost(self) -> int:
    """Items that the next climb is charged, if it makes all its steps."""
    assert self._study.climb is not None
    first = 0 if self.turn else self.targets
    return first + climb.cost(self._study.climb, self._sizes)

  def propose(self, start: np.ndarray) -> list[Candidate]:
    """What a climb from coefficients [D] finds."""
    study, scorer = self._study, self._scorer
    assert study.climb is not None
    found = climb.run(
      study.climb,
      self._ascent,
      self._shares,
      scorer.stack,
      scorer.heads,
      start,
      climb.weighting(study.objectives, self.turn),
      scorer.timed,
    )
    return [Candidate(origin, '', c) for origin, c in found]

  @functools.cached_property
  def _ascent(self) -> gradient.Ascent:
    study = self._study
    assert study.climb is not None
    return gradient.ascent(
      study.family,
      study.method,
      study.space,
      study.climb.objective,
      study.climb.shrinkage,
      study.dtype,
    )

  @functools.cached_property
  def _shares(self) -> climb.Shares:
    study, scorer = self._study, self._scorer
    assert study.climb is not None
    return climb.prepare(
      study.climb,
      study.family,
      study.method,
      scorer.stack,
      scorer.heads,
      self._items,
      study.own,
      study.dtype,
    )
