"""Plots: well-formed, what they show, and what they say they show."""

import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
import synthetic_report

from automerge_jax.report import plots, trade_offs

SVG = '{http://www.w3.org/2000/svg}'


def _texts(panel):
  root = ElementTree.fromstring(getattr(panel, 'svg', panel))
  assert root.tag == f'{SVG}svg'
  return [''.join(node.itertext()) for node in root.iter(f'{SVG}text')]


def _marks(panel):
  return panel.svg.count('<use ')


@pytest.fixture(scope='module')
def search():
  _, points = synthetic_report.search_log()
  return synthetic_report.build(), points


def test_curve_shows_every_candidate_and_names_its_lines(search):
  summary, points = search
  panel = plots.search_curve(summary, points)
  texts = _texts(panel)
  best = 100 * summary['search']['curve'][-1]['incumbent']
  for wanted in ('best so far', f'{best:.1f}', 'tuned TA', 'experts, own task'):
    assert wanted in texts
  below = [text for text in texts if 'below the plot' in text]
  hidden = int(below[0].split()[0]) if below else 0
  # Of the marks outside of the axes only those near the edge are drawn.
  assert len(points) - hidden <= _marks(panel) <= len(points)
  assert f'{best:.2f}' in panel.description


def test_curve_counts_what_lies_below_it(search):
  summary, points = search
  worst = {**points[0], 'mean': 0.1}
  texts = _texts(plots.search_curve(summary, [worst, *points]))
  counts = [text for text in texts if 'below the plot' in text]
  assert len(counts) == 1 and f'of {len(points) + 1} ' in counts[0]


def test_curve_in_log_likelihoods(search):
  log, points = synthetic_report.search_log()
  for row in log:
    row.update(incumbent=-0.5123, best=-0.5123, mean=-0.7)
  points = [{**point, 'mean': -0.6} for point in points]
  summary = synthetic_report.build(log=log, objective='log_likelihood')
  texts = _texts(plots.search_curve(summary, points))
  assert '-0.512' in texts and 'mean log-likelihood' in texts


def test_curve_without_candidates_still_stands(search):
  assert _marks(plots.search_curve(search[0], [])) == 0


def test_curve_before_any_candidate_passed_the_last_rung():
  log, points = synthetic_report.search_log()
  for row in log[:3]:
    row.update(incumbent=float('nan'), best=None)
  summary = synthetic_report.build(log=log)
  assert summary['search']['curve'][0]['incumbent'] is None
  panel = plots.search_curve(summary, points)
  assert 'nan' not in panel.svg.lower()
  first = 100 * log[3]['incumbent']
  assert f'goes from {first:.2f} to' in panel.description
  for row in log:
    row.update(incumbent=None)
  panel = plots.search_curve(synthetic_report.build(log=log), [])
  assert 'best so far' not in _texts(panel)


def test_dots_follow_the_cost_of_their_generation():
  curve = [
    {'generation': 0, 'full_evaluations': 10.0},
    {'generation': 1, 'full_evaluations': 16.0},
  ]
  points = [{'generation': g} for g in (-1, 0, 1, 1)]
  np.testing.assert_allclose(
    plots._spread(points, curve), [0.0, 5.0, 12.0, 14.0]
  )


def test_heat_maps_show_every_coefficient():
  coefficients = synthetic_report.coefficients()
  panels, bar = plots.coefficient_panels(coefficients)
  assert [panel.title for panel in panels] == coefficients['experts']
  for panel, values in zip(panels, coefficients['values'], strict=True):
    texts = _texts(panel)
    known = [v for row in values for v in row if v is not None]
    for value in known:
      assert f'{value:.2f}' in texts
    assert sum('.' in text for text in texts) == len(known)
  assert len(_texts(bar)) >= 3


def test_heat_maps_with_negative_values_center_on_zero():
  coefficients = synthetic_report.coefficients()
  coefficients['values'][0][1][0] = -0.5
  panels, bar = plots.coefficient_panels(coefficients)
  assert '−0.50' in _texts(panels[0])
  ticks = [float(text.replace('−', '-')) for text in _texts(bar)]
  assert min(ticks) == -max(ticks) < 0


def test_heat_maps_of_deep_models_leave_numbers_out():
  panels, _ = plots.coefficient_panels(
    synthetic_report.coefficients(experts=1, layers=48)
  )
  assert not any('.' in text for text in _texts(panels[0]))


def test_pairs_show_candidates_of_the_last_rung_and_all_models(search):
  summary, points = search
  panels = trade_offs.task_panels(summary, points)
  assert len(panels) == 6 and panels[0].title == 'movie and sarcasm'
  shown = sum(point['rung'] == 1 for point in points)
  for panel in panels:
    assert _marks(panel) == shown + len(summary['models'])
  assert {'movie expert', 'sarcasm expert'} <= set(_texts(panels[0]))


def test_many_tasks_become_parallel_coordinates(search):
  summary, points = search
  tasks = [*summary['tasks'], 'fifth']
  models = {
    name: {
      **model,
      'search': {
        'tasks': {task: {'accuracy': 0.5} for task in tasks},
      },
    }
    for name, model in summary['models'].items()
  }
  points = [{**p, 'scores': {t: p['mean'] for t in tasks}} for p in points]
  panels = trade_offs.task_panels(
    {**summary, 'tasks': tasks, 'models': models}, points
  )
  assert len(panels) == 1 and 'fifth' in _texts(panels[0])


def test_one_task_has_nothing_to_trade(search):
  summary, points = search
  assert trade_offs.task_panels({**summary, 'tasks': ['movie']}, points) == []


def test_plots_are_the_same_twice_and_leave_settings_alone(search):
  before = dict(matplotlib.rcParams)
  first, second = (plots.search_curve(*search) for _ in range(2))
  assert first == second
  assert dict(matplotlib.rcParams) == before
