"""Orders of blocks in the published depth-wise space."""

import itertools
from typing import NamedTuple

import numpy as np

_MOST = 1000


class Orders(NamedTuple):
  """What permutations of chosen blocks mean; a subset is a sum of 2^block.

  Attributes:
    order: models in their order, -1 behind their end, [P, 2^B, B].
    subset, permutation: the first spelling of the same order, [P, 2^B].
    mixes: whether the permutation matters, [2^B].
  """

  order: np.ndarray
  subset: np.ndarray
  permutation: np.ndarray
  mixes: np.ndarray


def table(models: int, repeat: int) -> Orders:
  """Of so many models with so many copies each.

  Raises:
    ValueError: if there are more than 1000 orders.
  """
  blocks = models * repeat
  # Block j is of model j % K; copies of a model keep their order.
  found: dict[tuple[int, ...], tuple[int, ...]] = {}
  for order in itertools.permutations(range(blocks)):
    found.setdefault(tuple(j % models for j in order), order)
    if len(found) > _MOST:
      raise ValueError(
        f'{models} models with repeat {repeat} have more than {_MOST} '
        'orders a layer; take fewer, or the space depthwise'
      )
  permutations = list(found.values())
  shape = len(permutations), 2**blocks
  order = np.full((*shape, blocks), -1)
  subset, permutation = np.zeros(shape, int), np.zeros(shape, int)
  first: dict[tuple[int, ...], tuple[int, int]] = {}
  # Subsets of first copies come first, as they are the smallest.
  for s in range(2**blocks):
    for p, one in enumerate(permutations):
      chosen = [j % models for j in one if s >> j & 1]
      order[p, s, : len(chosen)] = chosen
      subset[p, s], permutation[p, s] = first.setdefault(tuple(chosen), (s, p))
  several = [
    len({tuple(row) for row in order[:, s]}) > 1 for s in range(2**blocks)
  ]
  return Orders(order, subset, permutation, np.asarray(several))
