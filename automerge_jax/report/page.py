"""The report page: one self-contained HTML file, without scripts."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from automerge_jax.report import (
  drawing,
  front_plots,
  front_tables,
  plots,
  program_plot,
  trade_offs,
  wording,
)

READINGS = {
  'better': 'above',
  'worse': 'below',
  'undecided': 'not told apart',
}
_HEADLINES = {
  'better': 'Better than tuned task arithmetic',
  'undecided': 'No clear gain over tuned task arithmetic',
  'worse': 'Worse than tuned task arithmetic',
}


def render(
  summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]]
) -> str:
  """The page as HTML.

  Args:
    summary: see `summary.build`.
    points: one row a candidate and rung, see `plots.search_curve`; rows
      without a finite `mean` (failed candidates) are left out of the plots.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(
    percent=wording.percent,
    points=wording.points,
    heading=wording.heading,
    count='{:,.0f}'.format,
    p_value=p_value,
    depth=wording.depth,
    methods=wording.methods,
    svg=_svg,
  )
  points = [
    point
    for point in points
    if point['mean'] is not None and math.isfinite(point['mean'])
  ]
  heat, bar = [], ''
  told = summary['coefficients'] or {}
  if told.get('parameter'):
    heat, bar = plots.coefficient_panels(told)
  program = told.get('program')
  by_layer = wording.by_layer(program)
  if not wording.restacked(program):
    program = None
  against = summary['comparisons']['merged_vs_task_arithmetic']
  standing = wording.standing(against)
  headline = _HEADLINES[standing]
  rival = wording.better_model(summary)
  if rival and standing == 'better':
    standing = 'undecided'
    headline += f', but {wording.model_name(rival)} does better'
  broken = [row for row in summary['constraints'] if not row['kept']]
  if broken:
    surely = any(row['sure'] for row in broken)
    standing = 'worse' if surely or standing == 'worse' else 'undecided'
    headline += ', and it breaks a constraint'
  return environment.get_template('page.html').render(
    summary=summary,
    standing=standing,
    headline=headline,
    against=against,
    columns=_columns(summary),
    rows=_score_rows(summary),
    parents=_parent_rows(summary),
    rivals=_rival_rows(summary),
    curves=_both(plots.search_curve, summary, points),
    heat=heat,
    bar=bar,
    program=program,
    by_layer=by_layer,
    programs=_both(program_plot.program_panel, program),
    fronts=_both(front_plots.front_panel, summary['front'] and summary),
    front=front_tables.members(summary) if summary['front'] else [],
    front_says=wording.front(summary) if summary['front'] else '',
    constraints=front_tables.constraints(summary),
    pairs=trade_offs.task_panels(summary, points),
    phases=_phases(summary['environment']),
    facts=_facts(summary['environment']),
  )


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


def _columns(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
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
        'name': 'Mean' if task is None else task,
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


def _score_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
  models, columns = summary['models'], _columns(summary)
  wanted = (None, *summary['tasks'])
  rows = [
    {
      'name': name,
      'kind': name,
      'cells': [
        _marked(_cell(models[name], task), column)
        for task, column in zip(wanted, columns, strict=True)
      ],
    }
    for name in ordered(models)
  ]
  # Not one model but several: shown to measure by, never as the best.
  own = [
    {**_marked(_own(summary, task), column), 'best': False}
    for task, column in zip(wanted, columns, strict=True)
  ]
  rows.append(
    {'name': 'each task by its own expert', 'kind': 'own', 'cells': own}
  )
  return rows


def _parent_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
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


def _rival_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
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


def _both(draw: Any, subject: Any, *rest: Any) -> list[drawing.Panel]:
  """The same drawing for a wide and for a narrow page, if there is any."""
  if not subject:
    return []
  return [draw(subject, *rest, width=width) for width in (720, 360)]


def _zero_mark(test: Mapping[str, Any], reach: float) -> dict[str, str]:
  scale = (-reach, reach)
  return _mark(test['difference'], test['low'], test['high'], scale)


def _phases(environment: Mapping[str, Any]) -> list[dict[str, Any]]:
  seconds = environment.get('seconds', {})
  longest = max(seconds.values(), default=0) or 1
  return [
    {'name': name, 'seconds': value, 'width': f'{100 * value / longest:.1f}'}
    for name, value in seconds.items()
  ]


def _facts(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
  """What else is known of the environment, as names and short texts."""
  facts = []
  for name, value in environment.items():
    if name in ('seconds', 'command'):
      continue
    if name == 'peak_memory_mb':
      facts.append(('peak memory', f'{value:,.0f} MB'))
    elif name.endswith('_fraction'):
      label = name.removesuffix('_fraction').replace('_', ' ')
      facts.append((label, f'{wording.percent(value)}%'))
    elif isinstance(value, Mapping):
      text = ', '.join(f'{key} {item}' for key, item in value.items())
      facts.append((name.replace('_', ' '), text))
    else:
      text = f'{value:.4g}' if isinstance(value, float) else str(value)
      facts.append((name.replace('_', ' '), text))
  return facts


def _svg(panel: drawing.Panel) -> Markup:
  """A panel's drawing, named for those who cannot see it."""
  label = Markup('<svg role="img" aria-label="{}" ').format(panel.description)
  return Markup(panel.svg.replace('<svg ', label, 1))
