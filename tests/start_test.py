"""The check at a search's start lets rounding pass and nothing else."""

import numpy as np
import pytest

from automerge_jax.search import start
from automerge_jax.search.ledger import Candidate, Scores

CORRECT = np.asarray([1, 0, 1, 1], np.float32)
NATS = np.asarray([-0.1, -2.0, -0.69, -0.02], np.float32)
EXPERTS = {'a': Scores(CORRECT, NATS)}


def _check(scores, origin='expert:a'):
  start.check([Candidate(origin, 'r', np.zeros(1))], [scores], EXPERTS)


def test_the_expert_itself_and_rounding_pass():
  _check(Scores(CORRECT, NATS))
  _check(Scores(CORRECT, NATS * (1 + 5e-5)))


def test_a_flip_at_a_tie_passes():
  tied = NATS.copy()
  tied[2] = np.log(0.5)
  flipped = CORRECT.copy()
  flipped[2] = 0
  wants = {'a': Scores(CORRECT, tied)}
  candidate = Candidate('expert:a', 'r', np.zeros(1))
  start.check([candidate], [Scores(flipped, tied)], wants)


def test_another_likelihood_is_told_with_its_size():
  other = NATS.copy()
  other[3] -= 1e-3
  with pytest.raises(
    RuntimeError, match=r'1 of 4 items differ, by up to 0.001'
  ):
    _check(Scores(CORRECT, other))


def test_a_flip_with_a_margin_is_an_error():
  flipped = CORRECT.copy()
  flipped[0] = 0
  with pytest.raises(RuntimeError, match="'expert:a' does not score like"):
    _check(Scores(flipped, NATS))


def test_an_expert_that_cannot_be_scored_is_an_error():
  with pytest.raises(RuntimeError, match='cannot be scored: not finite'):
    _check(Scores(None, None, 'not finite'))


def test_not_a_number_is_no_agreement():
  with pytest.raises(RuntimeError, match='does not score like'):
    _check(Scores(CORRECT, np.full(4, np.nan, np.float32)))


def test_other_start_points_are_not_compared():
  _check(Scores(1 - CORRECT, NATS - 5), origin='uniform')
