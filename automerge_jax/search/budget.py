"""What a search may spend, and what scoring costs.

The unit is one item scored by one candidate. A budget in anything else is
converted once, one in time by the rate of the first generation, and the search
records what came out; then only items that were scored count, never time. So a
search with more to spend begins exactly as one with less.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from automerge_jax import trees
from automerge_jax.search.fidelity import Schedule
from automerge_jax.tasks.generation import Encoded
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.tasks.likelihood import Query

MOST = 2048  # candidates of a search
_SECONDS = {'seconds': 1, 'minutes': 60, 'hours': 3600}
UNITS = ('evaluations', 'items', 'tokens', *_SECONDS)


class Budget(NamedTuple):
  """So much of 'evaluations', 'items', 'tokens' or 'seconds'."""

  amount: float
  unit: str


class Costs(NamedTuple):
  """What it takes to score one candidate, by what each rung adds.

  Attributes:
    items: of all tasks, [rungs].
    tokens: real ones that these hold, [rungs]; None where items have none.
  """

  items: np.ndarray
  tokens: np.ndarray | None

  @property
  def full(self) -> int:
    """Items of a full evaluation: of all tasks, up to the last rung."""
    return int(self.items.sum())


def parse(text: str) -> Budget | None:
  """A budget as users write it; None for an empty text, which is no bound.

  '100' are full evaluations: one candidate on the last rung's items of all
  tasks. Else a unit follows: '80000 items', '2e6 tokens', '30 minutes'.

  Raises:
    ValueError: for anything else.
  """
  if not text.strip():
    return None
  found = re.fullmatch(r'([\d.]+(?:e\d+)?) *([a-z]*)', text.strip().lower())
  try:
    amount = float(found[1]) if found else math.nan
  except ValueError:
    amount = math.nan
  if found is None or not 0 < amount < math.inf:
    raise ValueError(
      f'budget {text!r}: expected a number above 0, alone or with a unit, as '
      "'100', '80000 items' or '30 minutes'"
    )
  unit = found[2] or 'evaluations'
  unit = unit if unit.endswith('s') else unit + 's'
  if unit not in UNITS:
    raise ValueError(
      f'budget {text!r} is in {found[2]!r}' + trees.nearest(unit, UNITS)
    )
  if unit in _SECONDS:
    return Budget(amount * _SECONDS[unit], 'seconds')
  return Budget(amount, unit)


def costs(subsets: Sequence[ItemSet]) -> Costs:
  """What the items cost that each rung adds."""
  items = np.asarray([len(subset) for subset in subsets])
  found = []
  for subset in subsets:
    counts = [n for one in subset.encoded if (n := tokens(one)) is not None]
    if len(counts) < len(subset):
      return Costs(items, None)
    found.append(sum(counts))
  return Costs(items, np.asarray(found))


def tokens(encoded: Any) -> int | None:
  """Tokens that a model reads of an item; None for one that has no tokens.

  What choices share counts once. Of an item to generate from, these are its
  prompt and its first accepted answer, since what a candidate will answer is
  not known.

  Args:
    encoded: one of `ItemSet.encoded`.
  """
  if isinstance(encoded, Encoded):
    return sum(map(len, (encoded.source, encoded.prompt, encoded.answer)))
  if isinstance(encoded, Query):
    texts = sorted(
      (*request.context, *request.continuation)
      for choice in encoded.choices
      for request in choice
    )
    return sum(
      len(text) - _shared(text, before)
      for before, text in zip([(), *texts], texts, strict=False)
    )
  return len(encoded) if isinstance(encoded, tuple) else None


def items_a_second(items: float, seconds: float) -> float:
  """The rate by which a budget in time is converted.

  Args:
    items: scored by a first generation, in all.
    seconds: that it took, without compilation.

  Raises:
    ValueError: if either is not above 0.
  """
  if not (items > 0 and 0 < seconds < math.inf):
    raise ValueError(
      f'{items} items in {seconds} seconds are no rate: state the budget in '
      'items or full evaluations'
    )
  return items / seconds


def in_items(budget: Budget, cost: Costs, rate: float | None = None) -> int:
  """A budget in items.

  Args:
    budget: as parsed.
    cost: of a candidate; tokens become items by the mean of the last rung.
    rate: items a second; needed for a budget in seconds only.

  Raises:
    ValueError: without a rate or tokens that are needed, or where not even one
      item is paid.
  """
  if budget.unit == 'seconds':
    if rate is None:
      raise ValueError(
        f'a budget of {budget.amount:g} seconds needs a measured rate'
      )
    items = budget.amount * rate
  elif budget.unit == 'tokens':
    if cost.tokens is None:
      raise ValueError(
        f'a budget of {budget.amount:g} tokens, but some items have no tokens '
        '(images, external tasks): state it in items or minutes'
      )
    items = budget.amount * cost.full / cost.tokens.sum()
  else:
    items = budget.amount * (cost.full if budget.unit == 'evaluations' else 1)
  if items < 1:
    raise ValueError(
      f'a budget of {budget.amount:g} {budget.unit} pays for no item; a full '
      f'evaluation takes {cost.full}'
    )
  return math.floor(items)


def expected(schedule: Schedule, generation: int, cost: Costs) -> int:
  """Items that a generation is expected to take, without races and failures."""
  return int(schedule.expected(generation) @ cost.items)


def fits(budget: int | None, spent: float, upcoming: float) -> bool:
  """Whether the next generation, or climb, is still paid.

  A search ends at the first that is not, though a later one might cost less:
  so generations under a smaller budget are a prefix of those under a larger.

  Args:
    budget: in items; None: no bound.
    spent: items so far; a gradient step counts as its items three times over.
    upcoming: items that the next is expected to take.
  """
  return budget is None or spent + upcoming <= budget


def most_candidates(budget: int, population: int, least: int) -> int:
  """N, the room for candidates in arrays of one shape: whole generations.

  What the budget pays if all cost the least, rounded up to a power of two so
  that shapes seldom change with it, and at most about `MOST`. Equal recipes
  after the first and candidates that fail the gate cost nothing, so a search
  has to end where this room does, too.

  Args:
    budget: in items.
    population: P.
    least: items that a scored candidate costs at least: those of the lowest
      rung, or where races stop candidates those before the first look.
  """
  room = min(2 ** math.ceil(math.log2(max(budget // least, 1))), MOST)
  return max(-(-room // population), 1) * population


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
  """Length of the common beginning."""
  for i, (x, y) in enumerate(zip(a, b, strict=False)):
    if x != y:
      return i
  return min(len(a), len(b))
