"""What the optimizer proposes, screened by the surrogate where that pays."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from automerge_jax.search import acquisition, observations, screening, surrogate
from automerge_jax.search.archive import Row
from automerge_jax.search.ledger import Candidate, Scores
from automerge_jax.search.plan import Study
from automerge_jax.search.rungs import RungScorer
from automerge_jax.types import Array

ORIGIN = 'search'
CAPACITY = 512  # observations that the surrogate learns from
_VALUE = {'accuracy': 'score', 'log_likelihood': 'log_likelihood'}


class Proposer:
  """Generations of proposals; decisions follow from the scorer's rows alone."""

  def __init__(self, study: Study, scorer: RungScorer):
    self._study, self._scorer = study, scorer
    self._quantise = jax.jit(jax.vmap(study.space.quantise))
    self._encode = jax.jit(study.space.encode)
    self._fitted = False  # whether fit and keep are compiled

  def propose(self, key: Array, state: Any) -> list[Candidate]:
    """P candidates of a generation.

    With a surrogate all of them are predicted; it also chooses them, out of
    several times as many, as long as its predictions are worth something.
    """
    study = self._study
    ask_key, keep_key = jax.random.split(key)
    if study.screen == 1:
      return self._candidates(study.optimizer.ask(ask_key, state))
    rows = self._rows()
    if (said := screening.words(rows)) is not None:
      logging.info('%s', said)
    on = bool(rows) and rows[-1].on
    keys = jax.random.split(ask_key, study.screen if on else 1)
    x = jnp.concatenate([study.optimizer.ask(key, state) for key in keys])
    with self._scorer.timed('surrogate' if self._fitted else 'compilation'):
      fitted = self._surrogate.fit(self._observed())
      chosen, predicted = jax.device_get(self._keep(keep_key, x, fitted))
    self._fitted = True
    return self._candidates(np.asarray(x)[chosen], predicted.mean(-1))

  def log(self) -> list[dict[str, Any]]:
    """What became of predictions, a row a generation."""
    return [row.document() for row in self._rows()]

  def _candidates(
    self, x: Any, predicted: Sequence[float] | None = None
  ) -> list[Candidate]:
    x = np.asarray(x)
    c = np.asarray(self._quantise(jnp.asarray(x)))
    foreseen = [None] * len(x) if predicted is None else map(float, predicted)
    return [
      Candidate(ORIGIN, '', one, asked, value)
      for one, asked, value in zip(c, x, foreseen, strict=True)
    ]

  def _rows(self) -> list[screening.Row]:
    """Whether predictions of each generation came true."""
    found = self._scorer.order()
    generations: dict[int, list[tuple[float, float]]] = {}
    for row, achieved in zip(self._scorer.rows, found, strict=True):
      if row.candidate.predicted is not None:
        failed = row.failure is not None
        generations.setdefault(row.generation, []).append(
          (row.candidate.predicted, -np.inf if failed else achieved)
        )
    return screening.decide(
      [
        screening.Generation(g, *zip(*pairs, strict=True))
        for g, pairs in generations.items()
      ]
    )

  @functools.cached_property
  def _surrogate(self) -> surrogate.Surrogate:
    return surrogate.surrogate(self._study.space)

  @functools.cached_property
  def _keep(self) -> acquisition.Keep:
    study = self._study
    return acquisition.keeper(
      self._surrogate, study.space, study.population, study.acquisition
    )

  def _observed(self) -> observations.Observations:
    """Every candidate at every rung, against the incumbent."""
    study, scorer = self._study, self._scorer
    best = scorer.incumbents(1)[0]
    goals = study.objectives.each
    sizes = [len(subset) for subset in scorer.subsets]
    found = []
    for row, rank in zip(scorer.rows, scorer.order(), strict=True):
      x = np.asarray(self._encode(jnp.asarray(row.candidate.coefficients)))
      for rung, part in enumerate(row.parts[: best.rung + 1]):
        pairs = _paired(part, best, rung, goals, scorer.subsets[rung].task)
        if pairs is not None:
          seen = int(np.isfinite(part.score).sum())
          share = seen / sum(sizes)
          found.append(
            observations.Observation(
              x, rung, share, pairs[0], pairs[1], float(rank)
            )
          )
    return observations.table(
      found, CAPACITY, len(study.space.names), len(goals)
    )


def _paired(
  part: Scores, best: Row, rung: int, goals: Sequence[Any], task: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
  """Differences to the incumbent in each objective, and their variances."""
  if part.failure is not None:
    return None
  found = [
    observations.paired(
      getattr(part, _VALUE[one.metric]),
      getattr(best.parts[rung], _VALUE[one.metric]),
      task,
      one.weights,
    )
    for one in goals
  ]
  if any(pair is None for pair in found):
    return None
  values, variances = zip(*(pair for pair in found if pair), strict=True)
  return np.asarray(values), np.asarray(variances)
