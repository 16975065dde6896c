"""Rows of the page's tables of a front and of constraints."""

from collections.abc import Mapping
from typing import Any

from automerge_jax.report import wording


def members(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Rows of a front's members, the picked one first, then of the baselines."""
  front = summary['front']
  rows = [
    {
      'name': f'member {row["name"].rpartition(":")[2]}',
      'kind': 'merged' if row['picked'] else 'other',
      'note': wording.reason(row['why']) if row['picked'] else '',
      'cells': _cells(summary, row['objectives']),
      'broken': row['broken'],
      'recipe': row['recipe'],
    }
    for row in sorted(front['members'], key=lambda row: not row['picked'])
  ]
  baselines = [
    name
    for name in front['others']
    if name != 'base' and not name.startswith('expert:')
  ]
  rows += [
    {
      'name': wording.heading(name),
      'kind': 'first' if name == baselines[0] else 'other',
      'note': '',
      'cells': _cells(summary, front['others'][name]),
      'broken': [],
      'recipe': '',
    }
    for name in baselines
  ]
  return rows


def constraints(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Rows of the constraints, each with what is to be said of it."""
  return [
    {
      **row,
      'standing': ('better' if row['kept'] else 'worse')
      if row['sure']
      else 'undecided',
      'reading': wording.constraint(row),
    }
    for row in summary['constraints']
  ]


def _cells(
  summary: Mapping[str, Any], cells: Mapping[str, Any] | None
) -> list[dict[str, str] | None]:
  found: list[dict[str, str] | None] = []
  for one in summary['objectives']:
    if cells is None:
      found.append(None)
      continue
    show = wording.percent if one['metric'] == 'accuracy' else '{:.3f}'.format
    found.append({key: show(v) for key, v in cells[one['name']].items()})
  return found
