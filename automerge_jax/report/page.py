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
  search_plots,
  spending,
  tables,
  trade_offs,
  wording,
)

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
  likelihood = 'likelihood' in summary['objective']
  scale, unit = (1.0, 'nats') if likelihood else (100.0, 'points')
  screened = [
    row
    for row in summary['search']['screening'] or []
    if row['correlation'] is not None
  ]
  environment.filters.update(
    percent=wording.percent,
    points=wording.points,
    heading=wording.heading,
    count='{:,.0f}'.format,
    p_value=tables.p_value,
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
    columns=tables.columns(summary),
    rows=tables.score_rows(summary),
    parents=tables.parent_rows(summary),
    rivals=tables.rival_rows(summary),
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
    spent=spending.rows(summary),
    reasons=spending.reasons(summary),
    screening=_both(search_plots.screening_panel, screened),
    switched=spending.switched(summary),
    resolution=spending.resolution(summary),
    gaps=_both(search_plots.gap_panel, summary['generalisation'], scale, unit),
    contest=spending.contest(summary, scale, unit),
    phases=_phases(summary['environment']),
    facts=_facts(summary['environment']),
  )


def _both(draw: Any, subject: Any, *rest: Any) -> list[drawing.Panel]:
  """The same drawing for a wide and for a narrow page, if there is any."""
  if not subject:
    return []
  return [draw(subject, *rest, width=width) for width in (720, 360)]


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
