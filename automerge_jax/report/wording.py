"""The words of a report: names of models, numbers, the verdict."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

_LEVEL = 0.05
_NAMES = {
  'merged': 'the merge',
  'base': 'the base model',
  'uniform': 'the uniform average',
  'task_arithmetic': 'tuned task arithmetic',
  'ties': 'tuned TIES',
  'tsv_m': 'tuned TSV-Merge',
  'slerp': 'tuned SLERP',
  'linear': 'the tuned linear merge',
  'modelwise': 'model-wise search',
}


def model_name(name: str) -> str:
  """A model's name in running text."""
  if name.startswith('expert:'):
    return f'the {name.removeprefix("expert:")} expert'
  return _NAMES.get(name, name.replace('_', ' '))


def heading(name: str) -> str:
  """A model's name at the start of a row, `Movie expert`."""
  text = model_name(name).removeprefix('the ')
  return text[:1].upper() + text[1:]


def percent(value: float) -> str:
  """A fraction as a percentage without its sign, `84.1`."""
  return f'{100 * value + 0.0:.1f}'


def points(value: float) -> str:
  """A difference of fractions in signed percentage points, `+2.9`."""
  text = f'{100 * value:+.1f}'.replace('-', '−')
  return '0.0' if text[1:] == '0.0' else text


def listing(names: Sequence[str]) -> str:
  """`a`, `a and b`, `a, b and c`."""
  if len(names) < 2:
    return ''.join(names)
  return f'{", ".join(names[:-1])} and {names[-1]}'


def restacked(program: Mapping[str, Any] | None) -> bool:
  """Whether layers moved, or what they add is scaled."""
  return program is not None and (
    program['depth'] != program['of']
    or any(
      row['sources'] != [layer] or row['scales']
      for layer, row in enumerate(program['layers'])
    )
  )


def by_layer(program: Mapping[str, Any] | None) -> str:
  """Which methods merge which layers; nothing where all are merged alike."""
  rows = [row['methods'] for row in program['layers']] if program else []
  runs = [(key, len(list(own))) for key, own in itertools.groupby(rows)]
  if len(runs) < 2 and all(len(key) == 1 for key, _ in runs):
    return ''
  parts, start = [], 0
  for key, count in runs:
    names = listing([name.replace('_', ' ') for name in key])
    where = f'layer {start}'
    if count > 1:
      where = f'layers {start} to {start + count - 1}'
    parts.append(f'{where} by {names}')
    start += count
  return ', '.join(parts)


def methods(names: str) -> str:
  """Merge methods, given with commas between, in running text."""
  each = [name.strip().replace('_', ' ') for name in names.split(',')]
  return listing(each)


def standing(comparison: Mapping[str, Any]) -> str:
  """What an interval says of a difference: better, worse or undecided."""
  if comparison['low'] > 0:
    return 'better'
  return 'worse' if comparison['high'] < 0 else 'undecided'


def task_standing(test: Mapping[str, Any]) -> str:
  """What Holm-adjusted McNemar tests say of one task."""
  if test['p_holm'] >= _LEVEL:
    return 'undecided'
  return 'better' if test['difference'] > 0 else 'worse'


def better_model(summary: Mapping[str, Any]) -> str | None:
  """The model, beside the baseline, that is furthest and surely above."""
  rows = {
    name.removeprefix('merged_vs_'): row
    for name, row in summary['comparisons'].items()
    if name not in ('merged_vs_own_expert', 'merged_vs_task_arithmetic')
  }
  better = [name for name in sorted(rows) if standing(rows[name]) == 'worse']
  return min(better, key=lambda name: rows[name]['difference'], default=None)


def verdict(summary: Mapping[str, Any]) -> str:
  """One sentence that claims no more than the intervals allow."""
  mean = summary['models']['merged']['heldout']['mean']
  number = len(summary['tasks'])
  over = f', averaged over {number} tasks' if number > 1 else ''
  over += ' by their weights' if summary['weights'] else ''
  return (
    f'The merge scores {percent(mean["accuracy"])}% on held-out items{over} '
    f'(95% interval {percent(mean["low"])} to {percent(mean["high"])}), '
    f'{_against_baseline(summary)}{_against_others(summary)}; '
    f'{_against_experts(summary)}{_broken(summary)}.'
  )


def front(summary: Mapping[str, Any]) -> str:
  """What the front is, and what of the held-out box it covers."""
  rows, volume = summary['front']['members'], summary['front']['volume']
  names = listing([one['name'] for one in summary['objectives']])
  picked = next(row for row in rows if row['picked'])
  count = f'{len(rows)} {"merges" if len(rows) > 1 else "merge"}'
  first = (
    f'The front has {count} over {names}, none of which dominates another on '
    f'the items for selection; the merge is {reason(picked["why"])}.'
  )
  if volume is None:
    return first
  return (
    f'{first} On held-out items the front covers {percent(volume["front"])}% '
    'of the box between the worst and the best value of each objective; the '
    f'parents and baselines cover {percent(volume["others"])}% (difference '
    f'{points(volume["difference"])} points, {points(volume["low"])} to '
    f'{points(volume["high"])}).'
  )


def reason(why: str) -> str:
  """Why a member of a front was picked."""
  known = {
    'knee': 'the one at its knee',
    'weights': 'the one with the highest weighted sum',
  }
  return known.get(why, f'picked by {why}')


def constraint(row: Mapping[str, Any]) -> str:
  """Whether one constraint is kept, `kept`, `broken`, and how surely."""
  word = 'kept' if row['kept'] else 'broken'
  return word if row['sure'] else f'{word}, not surely'


def depth(program: Mapping[str, Any]) -> str:
  """How many layers of how many there are."""
  count, of = program['depth'], program['of']
  size = 'as many as' if count == of else 'more than' if count > of else 'of'
  if size == 'of':
    return f'{count} of {of} layers'
  return f'{count} layers, {size} the {of} of the base'


def _broken(summary: Mapping[str, Any]) -> str:
  rows = [row for row in summary['constraints'] if not row['kept']]
  if not rows:
    return ''
  falls = [
    f'{row["task"]} falls {percent(-row["difference"])} points below '
    f'{model_name(row["reference"])}, {percent(row["most"])} were allowed'
    for row in rows
  ]
  noun = 'constraint' if len(rows) == 1 else 'constraints'
  return f'; it breaks {len(rows)} {noun} ({"; ".join(falls)})'


def _against_baseline(summary: Mapping[str, Any]) -> str:
  hashes = {
    name: model['recipe_hash'] for name, model in summary['models'].items()
  }
  if hashes['merged'] and hashes['merged'] == hashes['task_arithmetic']:
    return (
      'and is the recipe of tuned task arithmetic: the search found none '
      'that did better on the items for selection'
    )
  row = summary['comparisons']['merged_vs_task_arithmetic']
  interval = f'{points(row["low"])} to {points(row["high"])}'
  unsigned = f'{percent(row["low"])} to {percent(row["high"])}'
  size = percent(abs(row['difference']))
  match standing(row):
    case 'better':
      return f'{size} points above tuned task arithmetic ({unsigned})'
    case 'worse':
      return f'{size} points below tuned task arithmetic ({interval})'
  return (
    'which cannot be told apart from tuned task arithmetic '
    f'({points(row["difference"])} points, {interval})'
  )


def _against_others(summary: Mapping[str, Any]) -> str:
  best = better_model(summary)
  if best is None:
    return ''
  row = summary['comparisons'][f'merged_vs_{best}']
  above = standing(summary['comparisons']['merged_vs_task_arithmetic'])
  return (
    f'{" but" if above == "better" else ", and"} '
    f'{percent(-row["difference"])} points below {model_name(best)} '
    f'({points(row["low"])} to {points(row["high"])})'
  )


def _against_experts(summary: Mapping[str, Any]) -> str:
  tests = summary['comparisons']['merged_vs_own_expert']
  groups: dict[str, list[str]] = {'better': [], 'worse': [], 'undecided': []}
  for task in summary['tasks']:
    groups[task_standing(tests[task])].append(task)
  parts = []
  for key, words in (
    ('worse', 'falls short of'),
    ('better', 'is above'),
    ('undecided', 'cannot be told apart from'),
  ):
    if groups[key]:
      every = len(groups[key]) == len(tests) > 1
      any_task = every and key == 'undecided'
      noun = 'expert' if len(groups[key]) == 1 or any_task else 'experts'
      where = 'every task' if every else listing(groups[key])
      where = 'any task' if any_task else where
      parts.append(f'{words} the {noun} on {where}')
  return f'it {listing(parts)}'
