"""What the optimizer proposes, screened by the surrogate where that pays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.search.ledger import Candidate
from automerge_jax.search.plan import Study
from automerge_jax.search.rungs import RungScorer
from automerge_jax.types import Array

ORIGIN = 'search'


class Proposer:
  """Generations of proposals; decisions follow from the scorer's rows alone."""

  def __init__(self, study: Study, scorer: RungScorer):
    self._study, self._scorer = study, scorer
    self._quantise = jax.jit(jax.vmap(study.space.quantise))

  def propose(self, key: Array, state: Any, generation: int) -> list[Candidate]:
    """P candidates of a generation."""
    del generation
    x = np.asarray(self._study.optimizer.ask(key, state))
    c = np.asarray(self._quantise(jnp.asarray(x)))
    return [
      Candidate(ORIGIN, '', one, asked) for one, asked in zip(c, x, strict=True)
    ]

  def log(self) -> list[dict[str, Any]]:
    """What became of predictions, a row a generation."""
    return []
