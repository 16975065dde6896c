"""Whole searches of every kind on the tiny suite, as configs state them."""

import json

import numpy as np
import pytest

from automerge_jax import pipeline
from automerge_jax.io import safetensors
from automerge_jax.models import registry
from configs import spaces
from experiments import choices, evaluate, merge
from tests import tiny_suite

BRIEF = {
  'candidates': 22,
  'population': 6,
  'rungs': (12, 24),
  'promote': (3,),
  'finalists': 3,
  'select': 30,
  'heldout': 40,
  'weights': (0.5, 1.0),
  'ties_scales': (1.0,),
  'ties_densities': (0.5,),
}
OPTIONS = {'min_layers': 2, 'max_layers': 3}
LAYERS = 2  # of the tiny suite's models


def _run(tiny, workdir, kind, **changes):
  """Runs a kind of search of configs/spaces.py; the last one's summary."""
  config = spaces.get_config(kind)
  with config.ignore_type(), config.unlocked():
    config.tasks = {task: {} for task in tiny_suite.TASKS}
    config.experts = str(tiny / 'experts')
    for part in [config.search, *([config.then] if 'then' in config else [])]:
      part.update(BRIEF)
      part.layers_per_group = 1
      known = part.space_options
      part.space_options = known.to_dict() | {
        name: value for name, value in OPTIONS.items() if name in known
      }
    for name, value in changes.items():
      config.search[name] = value
  if not (tiny / 'experts' / 'base').exists():
    (tiny / 'experts' / 'base').symlink_to(tiny / 'base')
  for settings, folder in choices.stages(config, workdir):
    result = pipeline.run(settings, folder, 'the command')
  return json.loads(json.dumps(result))


def _rebuilt_score(workdir, recipe, out):
  """Mean held-out accuracy of what a recipe file makes."""
  merge.run(workdir / recipe, out)
  return np.mean(
    [
      evaluate.run(out, task, n=BRIEF['heldout'])['accuracy']
      for task in tiny_suite.TASKS
    ]
  )


def test_fusion_then_depth(tiny, tmp_path):
  workdir = tmp_path / 'run'
  result = _run(tiny, workdir, 'layerwise_depthwise')
  assert 'expert:fusion' in result['models']
  first = json.loads((workdir / 'fusion' / 'summary.json').read_text())
  # The second search has the first one's merge as one more expert.
  assert (
    result['models']['expert:fusion']['heldout']['mean']
    == first['models']['merged']['heldout']['mean']
  )
  # What the baselines are made of stays as it was.
  for name in ('uniform', 'task_arithmetic', 'ties'):
    assert (
      result['models'][name]['heldout']['mean']['accuracy']
      == first['models'][name]['heldout']['mean']['accuracy']
    )
  found = registry.load(workdir / 'merged_hf')
  assert OPTIONS['min_layers'] <= found.family.num_layers
  assert found.family.num_layers <= OPTIONS['max_layers']
  score = _rebuilt_score(workdir, 'merged_hf/recipe.yaml', tmp_path / 'again')
  assert score == result['models']['merged']['heldout']['mean']['accuracy']


def test_a_pruned_model_has_fewer_layers(tiny, tmp_path):
  result = _run(
    tiny,
    tmp_path / 'run',
    'pruning',
    space_options={'keep': 1},
    optimizer='gp_bo',
    objectives=('tiny_colour',),
    constraints={'*': 0.05},
    reference='tiny_animal',
  )
  found = registry.load(tmp_path / 'run' / 'merged_hf')
  assert found.family.num_layers == 1 < LAYERS
  assert {row['task'] for row in result['constraints']} == {
    'tiny_animal',
    'tiny_number',
  }
  tensors = safetensors.read(tmp_path / 'run' / 'merged_hf')
  assert not any('layer.1.' in name for name in tensors)


def test_every_member_of_a_front_is_one_command_away(tiny, tmp_path):
  workdir = tmp_path / 'run'
  result = _run(
    tiny,
    workdir,
    'front',
    objectives=tiny_suite.TASKS,
    candidates=30,
    gradient_steps=4,
    gradient_every=1,
    race=0.1,
    screen=2,
  )
  members = result['front']['members']
  assert [row['picked'] for row in members].count(True) == 1
  values = np.asarray([list(row['on_select'].values()) for row in members])
  for i, one in enumerate(values):
    others = np.delete(values, i, 0)
    assert not ((others >= one).all(1) & (others > one).any(1)).any()
  last = members[-1]
  score = _rebuilt_score(workdir, last['recipe'], tmp_path / 'member')
  means = [row['value'] for row in last['objectives'].values()]
  assert score == pytest.approx(np.mean(means))


@pytest.mark.parametrize(
  ('kind', 'changes'),
  [
    ('both', {'optimizer': 'cma_es_large', 'race': 0.1, 'screen': 2}),
    (
      'published_layerwise',
      {'optimizer': 'random', 'space_options': {'layer_granularity': 1}},
    ),
    (
      'published_depthwise',
      {
        'optimizer': 'cma_es',
        'space_options': {'layers': 4},
        'schedule': 'asynchronous',
        'promote': (),
        'screen': 2,
      },
    ),
    (
      'smooth',
      {
        'optimizer': 'mixed',
        'space_options': {'choice': 'group', 'knots': 2},
        'gradient_steps': 4,
        'minibatches': 2,
      },
    ),
  ],
)
def test_other_kinds_run(tiny, tmp_path, kind, changes):
  result = _run(tiny, tmp_path / 'run', kind, **changes)
  assert result['search']['failures'] == 0
  assert result['models']['merged']['heldout']['mean']['accuracy'] > 0
  assert result['search']['candidates'] >= BRIEF['candidates'] - 6


def test_a_finished_search_is_read_back(tiny, tmp_path):
  result = _run(tiny, tmp_path / 'run', 'depthwise', optimizer='mixed')
  again = _run(tiny, tmp_path / 'run', 'depthwise', optimizer='mixed')
  ours = {k: v for k, v in result.items() if k != 'environment'}
  assert ours == {k: v for k, v in again.items() if k != 'environment'}
  assert len(result['coefficients']['program']['layers']) <= 3
