"""Plots: well-formed, what they show, and what they say they show."""

import itertools
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
import synthetic_report

from automerge_jax.report import front_plots, plots, program_plot, trade_offs

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


def test_two_objectives_are_a_scatter_of_all_models_with_intervals():
  summary = synthetic_report.front(('movie', 'sarcasm'))
  panel = front_plots.front_panel(summary)
  texts = _texts(panel)
  for label in ('0', '1', '2', '3', 'base', 'tuned TIES', 'movie expert'):
    assert label in texts
  count = 4 + len(summary['models']) - 1
  assert _marks(panel) >= count
  assert panel.svg.count('LineCollection') == 2 * count
  assert {'movie, %', 'sarcasm, %'} <= set(texts)
  best = max(
    row['objectives']['movie']['value'] for row in summary['front']['members']
  )
  assert f'movie, % {100 * best:.1f}' in panel.description


def test_more_objectives_are_lines_on_scales_of_the_merges():
  summary = synthetic_report.front(('movie', 'sarcasm:log_likelihood', 'mean'))
  panel = front_plots.front_panel(summary)
  texts = _texts(panel)
  assert {'0', '1', '2', '3', 'tuned TA', 'movie expert'} <= set(texts)
  front = summary['front']
  merges = [row['objectives'] for row in front['members']] + [
    cells
    for name, cells in front['others'].items()
    if name != 'base' and not name.startswith('expert:')
  ]
  low = min(cells['movie']['value'] for cells in merges)
  high = max(
    cells['movie']['value'] for cells in (*merges, *front['others'].values())
  )
  assert f'{100 * low:.1f}' in texts and f'{100 * high:.1f}' in texts
  assert panel.svg.count('stroke-dasharray') >= len(front['others'])


def test_labels_of_a_scatter_stay_clear_of_each_other_and_inside():
  draw = np.random.default_rng(0)
  points = draw.uniform([60, 60], [600, 300], (12, 2))
  at = np.stack([points, points - 15, points + 15], -1)
  labels = ['model-wise search'] * 12
  offsets = front_plots._beside(at, labels, 660)
  boxes = []
  for (x, y), (run, rise) in zip(points, offsets, strict=True):
    long = front_plots._LETTER * len(labels[0])
    start = x + run - (long if run < 0 else 0)
    boxes.append((start, y + rise - 5, start + long, y + rise + 5))
    assert start >= 0 and start + long <= 660
  for one, other in itertools.combinations(boxes, 2):
    assert front_plots._overlap(one, other) == 0


def test_a_program_shows_every_layer_its_model_and_scale():
  program = synthetic_report.program()
  panel = program_plot.program_panel(program)
  texts = _texts(panel)
  rows = program['layers']
  for row in rows:
    assert all(f'×{scale:.3g}' in texts for scale in row['scales'])
    if len(row['models']) == 1:
      owner = row['models'][0]
      assert ('the base' if owner == 'base' else owner) in texts
  assert 'several models, merged' in texts
  shown = {tuple(row['models']) for row in rows if len(row['models']) == 1}
  assert _marks(panel) == len(rows) + len(shown) + 1  # and the legend's
  assert panel.description.startswith('9 layers, more than the 6')


def test_scales_of_deep_programs_are_left_out():
  panel = program_plot.program_panel(synthetic_report.program(60, 32))
  assert not any('×' in text for text in _texts(panel))
