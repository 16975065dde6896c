"""Rows and sentences on what a search spent, and what it could show."""

from collections.abc import Mapping
from typing import Any

from automerge_jax.report import wording

_SPLITS = {'search': 'Search', 'select': 'Select', 'heldout': 'Held-out'}


def rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A row a rung, and one of gradient steps: what the items went into."""
  told = summary['search']['spending']
  if told is None:
    return []
  found: list[dict[str, Any]] = [
    {
      'name': f'{row["items"]:,} items a task',
      **{key: row[key] for key in ('completed', 'stopped', 'failed', 'scored')},
    }
    for row in told['rungs']
  ]
  if told['gradient_items']:
    found.append(
      {
        'name': 'Gradient steps',
        'completed': None,
        'stopped': None,
        'failed': None,
        'scored': told['gradient_items'],
      }
    )
  total = sum(row['scored'] for row in found) or 1
  most = max(row['scored'] for row in found) or 1
  for row in found:
    row['share'] = row['scored'] / total
    row['width'] = f'{100 * row["scored"] / most:.1f}'
  return found


def reasons(summary: Mapping[str, Any]) -> list[tuple[str, int]]:
  """Why candidates failed, the most frequent first."""
  told = summary['search']['spending']
  return [] if told is None else list(told['failures'].items())


def switched(summary: Mapping[str, Any]) -> str:
  """Whether the surrogate chose candidates, and when it was set aside."""
  told = summary['search']['screening'] or []
  on = [row['generation'] for row in told if row['on']]
  if not told or len(on) == len(told):
    return 'The surrogate chose the candidates of every generation shown.'
  if not on:
    return (
      'The surrogate chose none of the candidates: it never foresaw enough to '
      'be trusted.'
    )
  noun = 'generation' if len(told) == 1 else 'generations'
  return (
    f'The surrogate chose the candidates of {len(on)} of {len(told)} {noun}; '
    'in the others it did not foresee enough to be trusted.'
  )


def resolution(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A row a split: the detectable difference as stated, and as it was."""
  plan, seen = summary['plan'], summary['resolution']
  found = []
  for split, name in _SPLITS.items():
    stated = plan and plan['detectable'][split]
    here = seen.get(split)
    if not stated and here is None:
      continue
    found.append(
      {
        'name': name,
        'items': (here or stated)['items'],
        'stated': _size(stated['difference']) if stated else 'not stated',
        'assumed': f'for {wording.percent(plan["discordant"])}%'
        if stated
        else '',
        'discordant': f'{wording.percent(here["discordant"])}%' if here else '',
        'detectable': _size(here['detectable']) if here else '',
        'difference': wording.points(here['difference']) if here else '',
      }
    )
  return found


def contest(summary: Mapping[str, Any], scale: float, unit: str) -> list[str]:
  """What the choice on select items is worth without its bias."""
  told = summary['contest']
  if not told or 'reason' in told:
    return []

  def number(value: float) -> str:
    text = f'{scale * value:.{1 if scale == 100 else 3}f}'
    return text.replace('-', '−')

  def span(row: Mapping[str, float]) -> str:
    return f'{number(row["low"])} to {number(row["high"])}'

  ours, theirs = told['merged'], told['baseline']
  apart, every = told['difference'], told['simultaneous']
  shown = '%' if scale == 100 else f' {unit}'
  p = '< 0.001' if every['p'] < 0.001 else f'= {every["p"]:.3f}'
  return [
    f'The best of several flatters itself on the items by which it was chosen. '
    f'Of {told["finalists"]} finalists the merge had {number(ours["naive"])}'
    f'{shown} on the select items, {number(ours["value"])}{shown} without that '
    f'bias (95% interval {span(ours)}); of {told["grid"]} settings tuned task '
    f'arithmetic had {number(theirs["naive"])}{shown}, without it '
    f'{number(theirs["value"])}{shown}. Their difference is '
    f'{number(apart["value"])} {unit} ({span(apart)}) instead of '
    f'{number(apart["naive"])}. Held to all pairs of a finalist and a setting '
    f'at once, it lies between {number(every["low"])} and '
    f'{number(every["high"])} {unit} (p {p}).'
  ]


def _size(value: float | None) -> str:
  return 'none' if value is None else wording.percent(value)
