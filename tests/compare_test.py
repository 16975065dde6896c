"""The comparison's own arithmetic: choices, curves, figures."""

import numpy as np
import pytest

from automerge_jax.search.settings import Settings
from configs import compare
from experiments import choices
from experiments.bench.compare import curves, evaluated, figures
from experiments.bench.compare.evaluated import Evaluated


def _one(items, rung, recipe, *values, kind=evaluated.OTHER):
  return Evaluated(items, rung, np.zeros(2), recipe, np.asarray(values), kind)


LOG = [
  _one(10, 25, 'a', 0.9),
  _one(20, 25, 'b', 0.8),
  _one(30, 100, 'b', 0.5, kind=evaluated.START),
  _one(40, 100, 'c', 0.7),
  _one(50, 100, 'd', np.nan),
  _one(60, 25, 'e', 0.1, kind=evaluated.ENDED),
  _one(70, 100, 'c', 0.7),
]


def test_finalists_are_the_best_of_the_highest_rung_so_far():
  def found(items, most=2):
    return [one.recipe for one in evaluated.finalists(LOG, items, most)]

  assert found(5) == []
  assert found(20) == ['a', 'b']
  assert found(30) == ['b']  # one in full counts more than any at a low rung
  assert found(50) == ['c', 'b']
  assert found(70) == ['c', 'b', 'e']  # what a climb ended with, and once each
  assert found(70, most=1) == ['c', 'b', 'e']  # and the best start point


def test_logs_are_kept_as_they_are(tmp_path):
  evaluated.write(tmp_path / 'a' / 'log.npz', LOG)
  found = evaluated.read(tmp_path / 'a' / 'log.npz')
  for one, other in zip(found, LOG, strict=True):
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.c, other.c)
    np.testing.assert_array_equal(one.likelihoods, other.likelihoods)
    assert one[:2] + one[3:4] + one[5:6] == other[:2] + other[3:4] + other[5:6]


def test_a_front_comes_first_then_the_next():
  log = [
    _one(1, 9, 'a', 0.9, 0.1),
    _one(2, 9, 'b', 0.1, 0.9),
    _one(3, 9, 'c', 0.5, 0.5),
    _one(4, 9, 'd', 0.4, 0.4),
  ]
  found = [one.recipe for one in evaluated.front(log, 4, 4)]
  assert set(found[:3]) == {'a', 'b', 'c'} and found[3] == 'd'
  assert len(evaluated.front(log, 4, 2)) == 2
  assert evaluated.front(log, 0, 2) == []
  log += [_one(5, 9, 'e', 0.3, 0.3, kind=evaluated.START)]
  found = [one.recipe for one in evaluated.front(log, 5, 2)]
  assert len(found) == 3 and found[-1] == 'e'  # all start points are compared


def test_volume_is_what_points_dominate_together():
  points = np.asarray([[0.8, 0.6], [0.6, 0.9], [0.55, 0.55]])
  want = 0.3 * 0.1 + 0.1 * 0.4 - 0.1 * 0.1  # two boxes and what they share
  assert curves.volume(points, (0.5, 0.5)) == pytest.approx(want)
  assert curves.volume(points[:0].reshape(0, 2), (0.5, 0.5)) == 0


def test_areas_and_arrivals():
  shares = (0.0, 0.5, 1.0)
  assert curves.area(shares, (1.0, 1.0, 3.0)) == pytest.approx(1.5)
  assert curves.area(shares, (np.nan, 1.0, 3.0)) == pytest.approx(2.0)
  assert curves.reached(shares, (0.1, 0.3, 0.2), 0.3) == 0.5
  assert curves.reached(shares, (0.1, 0.3, 0.2), 0.4) == np.inf


def _rows(final, early=0.5, kind='heldout', seeds=4):
  return [
    {
      'seed': seed,
      'shares': [0.1, 0.5, 1.0],
      kind: [early, (early + final) / 2, final + 0.001 * seed],
    }
    for seed in range(seeds)
  ]


def test_figures_are_of_the_worst_place_and_the_best_peer():
  scene = {
    'ours': _rows(0.8, early=0.78),
    'smac': _rows(0.75),
    'pycma': _rows(0.7),
    'pymoo': _rows(0.6),
    'random': _rows(0.6),
  }
  fewer = {name: scene[name] for name in ('ours', 'smac', 'pycma', 'random')}
  worse = scene | {'ours': _rows(0.74)}
  front = {
    'ours': _rows(0.6, 0.3, 'hypervolume'),
    'ours_evolution': _rows(0.5, 0.3, 'hypervolume'),
    'parego': _rows(0.5, 0.3, 'hypervolume'),
    'pymoo': _rows(0.5, 0.2, 'hypervolume'),
    'random': _rows(0.5, 0.3, 'hypervolume'),
  }
  found = {'layerwise': scene, 'published': scene, 'depthwise': worse}
  result = figures.results(
    found | {'front': front, 'encoder': fewer},
    {'a': 1.0},
    {'figures': {'b': 2.0}, 'limits': {'b': 3.0}},
  )
  values = result['figures']
  assert values['final_heldout_minus_smac'] == pytest.approx(-0.01)
  assert values['layerwise_ours_minus_smac'] == pytest.approx(0.05)
  assert result['intervals']['layerwise_ours_minus_smac'] == [0.05, 0.05]
  assert values['layerwise_ours_items_fraction_to_smac'] == 0.1
  assert values['depthwise_ours_items_fraction_to_smac'] == figures.NEVER
  assert values['depthwise_ours_items_fraction_to_smac_less_margin'] > 1
  assert values['items_fraction_to_best_peer'] == 0.1
  assert values['reached_best_peer'] == pytest.approx(2 / 3, abs=1e-3)
  assert values['hypervolume_ratio_vs_pymoo'] == pytest.approx(1.2, abs=0.01)
  assert values['hypervolume_ratio_vs_pymoo_at_tenth'] == 1.5
  assert values['a'] == 1 and values['b'] == 2
  assert result['limits']['b'] == 3


@pytest.mark.parametrize('name', compare.SCENES)
def test_scenes_are_settings(name):
  made = choices.settings(compare.get_config(name))
  assert isinstance(made, Settings) and float(made.budget) > 0
  assert made.rungs[-1] % 9 in (1, 2)  # Hyperband's rungs, within an item


def test_another_scene_is_refused():
  with pytest.raises(ValueError, match="got 'depth'; valid: layerwise"):
    compare.get_config('depth')
