"""Hyperband's brackets (Li et al. 2018, JMLR 18:185) for given rungs."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Stage(NamedTuple):
  """So many candidates that a bracket scores at a rung."""

  candidates: int
  rung: int


def hyperband(eta: int, rungs: Sequence[int]) -> tuple[tuple[Stage, ...], ...]:
  """The brackets of a round of Hyperband, that of the lowest rung first.

  The first bracket brings one candidate to the last rung, and every further one
  may cost as much as the first, its candidates scored afresh at each rung. That
  is the published table where sizes grow by eta, up to rounding to whole items.

  Args:
    eta: one in so many candidates of a stage reaches the next.
    rungs: items a task at each rung, ascending.

  Raises:
    ValueError: if sizes do not ascend or eta is below 2.
  """
  check_sizes(rungs)
  check_eta(eta)
  last = len(rungs) - 1
  sizes = [Fraction(rungs[-1], eta ** (last - r)) for r in range(last + 1)]
  if any(abs(a - b) >= 1 for a, b in zip(sizes, rungs, strict=True)):
    sizes = [Fraction(size) for size in rungs]
  # Items of a bracket, for each candidate that it starts with.
  each = [
    sum(sizes[r] / eta ** (r - start) for r in range(start, last + 1))
    for start in range(last + 1)
  ]
  brackets = []
  for start, cost in enumerate(each):
    count = math.ceil(eta**last * each[0] / cost)
    brackets.append(
      tuple(
        Stage(max(count // eta ** (r - start), 1), r)
        for r in range(start, last + 1)
      )
    )
  return tuple(brackets)


def interleaved(shares: Sequence[int]) -> tuple[int, ...]:
  """Each index as often as its share, spread evenly: smooth round-robin."""
  each = np.asarray(shares) // math.gcd(*shares)
  owed, order = np.zeros(len(each), int), []
  for _ in range(each.sum()):
    owed += each
    order.append(int(np.argmax(owed)))
    owed[order[-1]] -= each.sum()
  return tuple(order)


def check_sizes(sizes: Sequence[int]) -> None:
  """Refuses sizes that do not ascend from 1 or more."""
  if list(sizes) != sorted(set(sizes)) or not sizes or sizes[0] < 1:
    raise ValueError(f'rung sizes {list(sizes)}: expected ascending counts')


def check_eta(eta: int) -> None:
  """Refuses what is not a whole number of at least 2."""
  if eta != int(eta) or eta < 2:
    raise ValueError(f'eta is {eta}: expected a whole number of at least 2')
