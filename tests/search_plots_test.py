"""Plots of the surrogate and of overfitting: what they show and say."""

import xml.etree.ElementTree as ElementTree

import pytest
import synthetic_report

from automerge_jax.report import search_plots


def test_every_known_correlation_is_a_dot():
  rows = [
    {'generation': g, 'correlation': 0.1 * g - 0.2, 'on': g < 3}
    for g in range(6)
  ]
  panel = search_plots.screening_panel(rows)
  ElementTree.fromstring(panel.svg)
  assert panel.svg.count('<use ') == len(rows)
  assert 'from -0.20 to 0.30, median 0.05' in panel.description
  assert 'chose in 3 of them' in panel.description


@pytest.mark.parametrize(('scale', 'unit'), [(100.0, 'points'), (1.0, 'nats')])
def test_gaps_are_in_their_unit(scale, unit):
  told = synthetic_report.extras()['generalisation']
  panel = search_plots.gap_panel(told, scale, unit)
  ElementTree.fromstring(panel.svg)
  for row in told['chosen']:
    text = f'{scale * row["gap"]:+.2f} at {row["items"]} items'
    assert text in panel.description
    assert f'{row["items"]:,} items' in panel.svg
  assert f'search minus unseen, {unit}' in panel.svg
  # A mark a rung of each model, and none twice.
  assert panel.svg.count('<use ') == 3 * len(told['finalists'])
