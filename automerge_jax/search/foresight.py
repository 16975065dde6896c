"""What a search can be expected to show, stated before it runs.

Which differences its items can tell is a matter of their number and of how
often models disagree; what it will cost, of its schedule. Neither needs a
single score, so both are said first, and the report holds them against what
came out.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from automerge_jax.search import climb, fidelity, statistics
from automerge_jax.search.budget import MOST
from automerge_jax.search.plan import in_full
from automerge_jax.search.settings import Settings

DISCORDANT = 0.1  # share of items on which merges of the same models disagree
WORST = 0.5  # the same for models of 50% that have nothing in common
CLAIM = 0.03  # gain that a search should be able to tell from none
LEVEL, POWER = 0.05, 0.8


class _Course(NamedTuple):
  """A search as it is expected to go."""

  generations: int
  candidates: int
  at_rung: list[int]
  climbs: int
  items: int


def foresee(
  settings: Settings,
  tasks: Sequence[str],
  *,
  starts: int,
  budget: int | None = None,
  discordant: float | None = None,
  claim: float = CLAIM,
) -> dict[str, Any]:
  """The plan of a search: cost, detectable differences, warnings.

  Args:
    settings: of the search.
    tasks: names of the tasks.
    starts: number of start points.
    budget: in items; None: no bound but the number of candidates, or one in
      time that is not converted yet.
    discordant: share of items on which two good merges disagree, where it is
      known; else `DISCORDANT` is assumed.
    claim: gain that the search should be able to tell from none, score.

  Returns:
    `budget`, `full_evaluation` (items of one), `candidates`, `generations`,
    `rungs` (rows of `items` a task and `candidates`), `climbs`, `climb_items`,
    `search_items`, `select_items`, `heldout_items` (what scoring takes after
    the search), `discordant`, `assumed`, `level`, `power`, `claim`,
    `detectable` (`{split: {items, difference, worst}}`, null where not even
    all of the disagreements would show), `flattery` (by how much the best of
    equal finalists looks better than it is), `lines` and `warnings`.
  """
  number = len(tasks)
  full = settings.rungs[-1] * number
  charge = _charge(settings, number)
  course = _course(settings, number, starts, budget, charge)
  share = DISCORDANT if discordant is None else discordant
  weights = [settings.task_weights.get(task, 1.0) for task in tasks]
  sizes = {
    'search': settings.rungs[-1],
    'select': settings.select,
    'heldout': settings.heldout,
  }
  detectable = {
    split: {
      'items': items,
      'difference': statistics.detectable(
        [items] * number, share, weights, LEVEL, POWER
      ),
      'worst': statistics.detectable(
        [items] * number, WORST, weights, LEVEL, POWER
      ),
    }
    for split, items in sizes.items()
  }
  compared, final = _models(settings, number, starts)
  plan: dict[str, Any] = {
    'budget': budget,
    'full_evaluation': full,
    'candidates': course.candidates,
    'generations': course.generations,
    'rungs': [
      {'items': items, 'candidates': count}
      for items, count in zip(settings.rungs, course.at_rung, strict=True)
    ],
    'climbs': course.climbs,
    'climb_items': course.climbs * charge,
    'search_items': course.items,
    'select_items': compared * settings.select * number,
    'heldout_items': final * (settings.heldout * number + full),
    'discordant': share,
    'assumed': discordant is None,
    'level': LEVEL,
    'power': POWER,
    'claim': claim,
    'detectable': detectable,
    'flattery': _flattery(settings, weights, share),
  }
  return plan | {'lines': _lines(plan), 'warnings': _warnings(plan)}


def _course(
  settings: Settings, tasks: int, starts: int, budget: int | None, charge: int
) -> _Course:
  """Follows the schedule until budget or candidates are used up."""
  schedule = fidelity.schedule(
    settings.schedule,
    settings.rungs,
    settings.population,
    settings.eta,
    settings.promote,
  )
  added = np.diff([0, *settings.rungs]) * tasks
  most = settings.candidates or MOST
  first = -(-starts // settings.population)
  at_rung = np.zeros(len(added), int)
  candidates = climbs = items = generation = 0
  while True:
    after = generation - first
    climbing = (
      settings.gradient_steps > 0
      and after >= 0
      and (
        after % (settings.gradient_every + 1) == 0
        if settings.gradient_every
        else after == 0
      )
    )
    size = climb.SNAPSHOTS if climbing else settings.population
    here = schedule.expected(generation)
    if after < 0:
      size = min(size, starts - candidates)
      named = starts - settings.explore
      if in_full(named, settings.population):
        here = np.maximum(here, named - candidates)
    here = np.minimum(here, size)
    cost = int(here @ added) + climbing * charge
    paid = budget is None or items + cost <= budget
    if after >= 0 and (candidates + size > most or not paid):
      break
    candidates, items = candidates + size, items + cost
    at_rung, climbs = at_rung + here, climbs + climbing
    generation += 1
  return _Course(generation, candidates, at_rung.tolist(), climbs, items)


def _charge(settings: Settings, tasks: int) -> int:
  """Items that a whole climb is charged."""
  how = climb.Climb(
    settings.gradient_steps,
    settings.gradient_rate,
    settings.minibatches,
    settings.gradient_objective or settings.objective,
    settings.gradient_validation,
    settings.gradient_shrinkage,
  )
  return climb.cost(how, [settings.rungs[-1]] * tasks) if how.steps else 0


def _models(settings: Settings, tasks: int, starts: int) -> tuple[int, int]:
  """How many models are scored on select and on held-out items."""
  experts = len(settings.experts)
  ties = len(settings.ties_scales) * len(settings.ties_densities)
  first = starts - settings.explore if len(settings.objectives) > 1 else 1
  compared = settings.finalists + first + 1 + 2 * (settings.gradient_steps > 0)
  tsv = len(settings.tsv_scales)
  compared += len(settings.weights) + ties + tsv
  if experts < tasks:  # whose own experts have to be found
    compared += experts
  # The merge, the base, uniform average, task arithmetic; others if there are.
  return compared, 4 + (ties > 0) + (tsv > 0) + experts


def _flattery(
  settings: Settings, weights: Sequence[float], share: float
) -> float:
  """Expected excess of the best of equal finalists on select items."""
  count = settings.finalists + 1
  draws = np.random.default_rng(0).standard_normal((20_000, count))
  w = np.asarray(weights) / np.sum(weights)
  # Two that disagree on a share q each have q / 2 of variance of their own.
  error = math.sqrt(share / 2 * np.sum(w**2) / settings.select)
  return round(float(draws.max(axis=1).mean() * error), 6)


def _lines(plan: dict[str, Any]) -> list[str]:
  full, rungs = plan['full_evaluation'], plan['rungs']
  budget = plan['budget']
  spend = (
    f'{plan["search_items"]:,} items, {plan["search_items"] / full:.0f} full '
    f'evaluations of {full:,}'
  )
  if budget is not None:
    spend += f', of a budget of {budget:,} items'
  reach = ', '.join(
    f'{row["candidates"]} on {row["items"]} items a task' for row in rungs
  )
  lines = [
    f'The search will score about {plan["candidates"]} candidates in '
    f'{plan["generations"]} generations: {reach}; {spend}.'
  ]
  if plan['climbs']:
    lines.append(
      f'{plan["climbs"]} of the generations climb along the gradient, for '
      f'{plan["climb_items"]:,} of these items.'
    )
  lines.append(
    f'Choosing on select items then takes {plan["select_items"]:,} items, '
    f'the held-out comparison {plan["heldout_items"]:,}.'
  )
  told = [
    f'{_points(cell[kind])} on {name} items'
    for kind in ('difference', 'worst')
    for name, cell in _named(plan)
  ]
  half = len(told) // 2
  source = 'is assumed' if plan['assumed'] else 'was seen'
  lines.append(
    f'Of models that disagree on {100 * plan["discordant"]:.0f}% of the items, '
    f'as {source}, a difference is found with {100 * plan["power"]:.0f}% '
    f'power from {", ".join(told[:half])}; at worst (they disagree on '
    f'{100 * WORST:.0f}%) from {", ".join(told[half:])}.'
  )
  return lines


def _warnings(plan: dict[str, Any]) -> list[str]:
  found = []
  claim = plan['claim']
  for name, cell in _named(plan)[:2]:
    d = cell['difference']
    if d is not None and d <= claim:
      continue
    need = ''
    if d is not None:
      need = f'; about {math.ceil(cell["items"] * (d / claim) ** 2)} would do'
    what = {
      'search': 'cannot rank candidates that differ by less',
      'select': 'cannot tell finalists apart that differ by less',
    }[name]
    found.append(
      f'{cell["items"]} {name} items a task show differences from '
      f'{_points(d)} on and {what}, such as a gain of {_points(claim)}{need}.'
    )
  spent = plan['budget'] or plan['search_items']
  if plan['climb_items'] > spent / 2:
    found.append(
      f'Climbs along the gradient take {plan["climb_items"]:,} of '
      f'{spent:,} items, most of the budget: fewer gradient_steps, or more '
      'minibatches, leave more to the other candidates.'
    )
  if plan['budget'] is not None and plan['search_items'] > plan['budget']:
    found.append(
      f'The start points alone take {plan["search_items"]:,} items, more than '
      f'the budget of {plan["budget"]:,}: the search will end with them.'
    )
  return found


def _named(plan: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  words = {'heldout': 'held-out'}
  return [(words.get(k, k), v) for k, v in plan['detectable'].items()]


def _points(value: float | None) -> str:
  return 'no points' if value is None else f'{100 * value:.1f} points'
