"""The check at a search's start: a one-hot candidate is the expert itself."""

from collections.abc import Mapping, Sequence

import numpy as np

from automerge_jax.search.ledger import Candidate, Scores

_NATS = 1e-4


def check(
  candidates: Sequence[Candidate],
  scored: Sequence[Scores],
  experts: Mapping[str, Scores],
) -> None:
  """Compares start points `expert:NAME` with the experts' own scores.

  base + (expert - base) differs from the expert in the last bit of some
  entries, so log-likelihoods may differ by 1e-4 nats, and an item's 0/1 score
  only where its margin is that small.

  Args:
    candidates: the start points.
    scored: their scores on the first rung.
    experts: scores of the unmerged experts on the same items.

  Raises:
    RuntimeError: if a start point does not score like its expert.
  """
  for candidate, scores in zip(candidates, scored, strict=True):
    kind, _, name = candidate.origin.partition(':')
    if kind != 'expert':
      continue
    want = experts[name]
    if scores.log_likelihood is None or want.log_likelihood is None:
      raise RuntimeError(
        f'expert {name!r} cannot be scored: {scores.failure or want.failure}'
      )
    nats = np.abs(scores.log_likelihood - want.log_likelihood)
    limit = _NATS * np.maximum(1.0, np.abs(want.log_likelihood))
    flipped = scores.score != want.score
    # An item changes sides only at a tie: two classes at log-likelihoods of
    # at most log(1/2).
    wrong = ~(nats <= limit) | (
      flipped & (want.log_likelihood > np.log(0.5) + _NATS)
    )
    if wrong.any():
      raise RuntimeError(
        f'the start point {candidate.origin!r} does not score like the expert '
        f'itself: {int(wrong.sum())} of {len(wrong)} items differ, by up to '
        f'{nats.max():.2g} nats; merging on this device is not to be trusted'
      )
