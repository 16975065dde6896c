"""Rows of the page's tables of scores and comparisons."""

from collections.abc import Mapping
from typing import Any

from automerge_jax.report import wording

READINGS = {
  'better': 'above',
  'worse': 'below',
  'undecided': 'not told apart',
}


def notes(cell: Mapping[str, Any]) -> list[str]:
  """What share of the items was cut or gave no answer, where any did."""
  told = (('truncated', 'cut off'), ('unparsed', 'without answer'))
  return [
    f'{wording.percent(cell[key])}% {words}'
    for key, words in told
    if cell.get(key)
  ]


def p_value(p: float) -> str:
  """A p-value to three decimals."""
  return '< 0.001' if p < 0.0005 else f'{p:.3f}'


def ordered(models: Mapping[str, Any]) -> list[str]:
  """Held-out models: the merge, other merges by score, experts, base."""
  held = [name for name in models if 'heldout' in models[name]]

  def rank(name: str) -> tuple[int, float, str]:
    kind = 1 + (name.startswith('expert:') + 2 * (name == 'base'))
    if name == 'merged':
      kind = 0
    return kind, -models[name]['heldout']['mean']['accuracy'], name

  return sorted(held, key=rank)


def columns(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Mean and tasks, each with the scale of its interval marks.

  The scale spans the merge, the other merges and the task's own expert, so
  that their intervals can be seen beside each other.
  """
  models = summary['models']
  columns = []
  for task in (None, *summary['tasks']):
    near = [
      _cell(models[name], task)
      for name in ordered(models)
      if name != 'base' and not name.startswith('expert:')
    ]
    near.append(_own(summary, task))
    columns.append(
      {
        'name': task or ('Weighted mean' if summary['weights'] else 'Mean'),
        'metric': None if task is None else summary['metrics'][task],
        'n': None if task is None else near[0]['n'],
        'notes': _common_notes(models, task),
        'low': min(cell['low'] for cell in near),
        'high': max(cell['high'] for cell in near),
        'best': max(
          _cell(models[name], task)['accuracy'] for name in ordered(models)
        ),
      }
    )
  return columns


def _common_notes(models: Mapping[str, Any], task: str | None) -> list[str]:
  """What is to be noted of every model: texts are cut alike for all."""
  told = [notes(_cell(models[name], task)) for name in ordered(models)]
  return [note for note in told[0] if all(note in other for other in told)]


def _own(summary: Mapping[str, Any], task: str | None) -> Mapping[str, Any]:
  """What experts score on their own task, or their mean."""
  if task is None:
    return summary['experts_on_own_task']['heldout']['mean']
  return _cell(_parent(summary, task), task)


def _parent(summary: Mapping[str, Any], task: str) -> Mapping[str, Any]:
  return summary['models'][f'expert:{summary["parents"][task]}']


def _cell(model: Mapping[str, Any], task: str | None) -> Mapping[str, Any]:
  held = model['heldout']
  return held['mean'] if task is None else held['tasks'][task]


def _marked(
  cell: Mapping[str, Any], column: Mapping[str, Any]
) -> dict[str, Any]:
  """A cell and its mark on the column's scale."""
  scale = (column['low'], column['high'])
  return {
    **_mark(cell['accuracy'], cell['low'], cell['high'], scale),
    'accuracy': cell['accuracy'],
    'low': cell['low'],
    'high': cell['high'],
    'best': cell['accuracy'] == column['best'],
    'notes': [note for note in notes(cell) if note not in column['notes']],
  }


def _mark(
  value: float, low: float, high: float, scale: tuple[float, float]
) -> dict[str, str]:
  """Where an interval lies on a scale, in percent; `off` if it is beyond."""
  start, span = scale[0], (scale[1] - scale[0]) or 1.0
  left, right = (
    min(max(100 * (end - start) / span, 0), 100) for end in (low, high)
  )
  at = 100 * (value - start) / span
  return {
    'left': f'{left:.1f}',
    'width': f'{right - left:.1f}',
    'at': f'{at:.1f}',
    'off': 'left' if at < 0 else 'right' if at > 100 else '',
  }


def score_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  models, scales = summary['models'], columns(summary)
  wanted = (None, *summary['tasks'])
  rows = [
    {
      'name': name,
      'kind': name,
      'cells': [
        _marked(_cell(models[name], task), column)
        for task, column in zip(wanted, scales, strict=True)
      ],
    }
    for name in ordered(models)
  ]
  # Not one model but several: shown to measure by, never as the best.
  own = [
    {**_marked(_own(summary, task), column), 'best': False}
    for task, column in zip(wanted, scales, strict=True)
  ]
  rows.append(
    {'name': 'each task by its own expert', 'kind': 'own', 'cells': own}
  )
  return rows


def parent_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  models = summary['models']
  tests = summary['comparisons']['merged_vs_own_expert']
  reach = max(max(abs(t['low']), abs(t['high'])) for t in tests.values())
  return [
    {
      'name': task,
      'expert': _cell(_parent(summary, task), task)['accuracy'],
      'merged': models['merged']['heldout']['tasks'][task]['accuracy'],
      **tests[task],
      **_zero_mark(tests[task], reach),
      'standing': wording.task_standing(tests[task]),
      'reading': READINGS[wording.task_standing(tests[task])],
    }
    for task in summary['tasks']
  ]


def rival_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  tests = summary['comparisons']
  names = [name for name in ordered(summary['models']) if name != 'merged']
  rows = [(name, tests[f'merged_vs_{name}']) for name in names]
  merges = [
    test
    for name, test in rows
    if name != 'base' and not name.startswith('expert:')
  ]
  reach = max(max(abs(t['low']), abs(t['high'])) for t in merges)
  return [
    {
      'name': name,
      **test,
      **_zero_mark(test, reach),
      'standing': wording.standing(test),
      'reading': READINGS[wording.standing(test)],
    }
    for name, test in rows
  ]


def _zero_mark(test: Mapping[str, Any], reach: float) -> dict[str, str]:
  scale = (-reach, reach)
  return _mark(test['difference'], test['low'], test['high'], scale)
