"""SCE: select, calculate, erase: https://arxiv.org/abs/2408.07990.

Keeps the entries of a tensor that vary most among the experts, weights each
expert by what it has left of the sum of squares, and drops entries against the
elected sign. `select_topk` is a share of the entries that vary at all.

mergekit 0.1.5 has absolute floors of 1e-6: experts whose mean squares sum to
less count alike, and entries are divided by at least that. `paper` has none.
"""

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from automerge_jax.merging.facts import largest
from automerge_jax.merging.methods import linear
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored

_FLOOR = 1e-6
_PART = 1 << 20


def rule(paper: bool) -> Callable[..., Array]:
  """The leaf function: θ₀ + Σ w τ̂ / Σ w over what agrees with sign(Σ τ̂)."""

  def merge(
    coefficients: Mapping[str, Array],
    facts: Mapping[str, Array],
    base: Array,
    stack: Array,
  ) -> Array:
    del coefficients
    left = jnp.where(facts['selected'][None], stack, 0.0)
    elected = jnp.where(linear.total_weight(left) >= 0, 1.0, -1.0)
    agrees = jnp.sign(left) == elected[None]
    weights = facts['weight']
    mixed = linear.weighted_sum(weights, jnp.where(agrees, left, 0.0))
    divisor = linear.weighted_sum(weights, jnp.where(agrees, 1.0, 0.0))
    if paper:
      divisor = jnp.where(divisor == 0, 1.0, divisor)
    else:
      divisor = jnp.maximum(divisor, _FLOOR)
    return base + mixed / divisor

  return merge


def _selected(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  """Which entries are kept, bool [...]; broadcast where all are."""
  flat = stored.stack.reshape(len(stored.stack), -1)
  share = stored.settings['select_topk']
  if share >= 1:
    return np.ones((1,) * (stored.stack.ndim - 1), bool)
  variance = np.empty(flat.shape[1], np.float32)
  varying = 0
  for start in range(0, len(variance), _PART):
    part = flat[:, start : start + _PART].astype(np.float64).var(axis=0)
    varying += int(np.count_nonzero(part))
    variance[start : start + _PART] = part
  chosen = largest(variance, int(varying * share))
  return chosen.reshape(stored.stack.shape[1:])


def _weight(
  stored: Stored, found: Mapping[str, np.ndarray], paper: bool
) -> np.ndarray:
  """Each expert's share of the squares, float32 [K]."""
  selected = found['selected']
  squares = np.array(
    [
      np.square(t, dtype=np.float64).sum(where=selected) / t.size
      for t in stored.stack
    ]
  )
  total = squares.sum()
  if total < (np.finfo(np.float64).tiny if paper else _FLOOR):
    return np.full(len(squares), 1 / len(squares), np.float32)
  return (squares / total).astype(np.float32)


METHODS = tuple(
  MergeMethod(
    name='sce',
    merge=rule(paper),
    parameters=(Parameter('select_topk', 1.0, False, setting=True),),
    stack='deltas',
    facts=(
      Fact('selected', _selected, lead=0),
      Fact(
        'weight', functools.partial(_weight, paper=paper), elementwise=False
      ),
    ),
    semantics='paper' if paper else 'mergekit-0.1.5',
  )
  for paper in (False, True)
)
