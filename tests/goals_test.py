"""Objectives, fronts and constraints of a report, against their scores."""

import json

import numpy as np
import pytest
import synthetic_report
from synthetic_report import MEMBERS, RATES, TASKS

from automerge_jax.report import goals as goals_lib
from automerge_jax.report import wording
from automerge_jax.search import fronts, objectives, statistics


@pytest.fixture(scope='module')
def scored():
  rates = RATES | {f'front:{i}': rate for i, rate in enumerate(MEMBERS)}
  tasks, scores = synthetic_report.scores(rates)
  return tasks['heldout'], scores['heldout']


@pytest.fixture(scope='module')
def summary():
  return synthetic_report.front(('movie', 'reuters'), {'sarcasm': 0.05})


def test_members_hold_their_heldout_objectives_and_are_no_models(
  summary, scored
):
  tasks, held = scored
  members = summary['front']['members']
  assert [row['name'] for row in members] == [f'front:{i}' for i in range(4)]
  assert [row['picked'] for row in members] == [False, True, False, False]
  for row in members:
    for task in ('movie', 'reuters'):
      right = held[row['name']]['score'][tasks == TASKS.index(task)]
      cell = row['objectives'][task]
      assert cell['value'] == right.mean()
      want = statistics.wilson(right.sum(), len(right))
      assert (cell['low'], cell['high']) == want
    split = row['heldout']['tasks']['sarcasm']
    right = held[row['name']]['score'][tasks == 1]
    assert split['accuracy'] == right.mean()
  assert set(summary['models']) == set(RATES)
  assert not any('front' in name for name in summary['comparisons'])
  assert [row['recipe'] for row in members][2] == 'front/2.yaml'


def test_volumes_are_shares_of_one_box(summary, scored):
  tasks, held = scored
  names = [name for name in held if name != 'merged']
  at = np.array(
    [[held[name]['score'][tasks == t].mean() for t in (0, 3)] for name in names]
  )
  low, high = at.min(0), at.max(0)
  unit = (at - low) / (high - low)
  mine = np.array([name.startswith('front:') for name in names])
  volume = summary['front']['volume']
  for key, rows in (('front', unit[mine]), ('others', unit[~mine])):
    assert volume[key] == pytest.approx(fronts.hypervolume(rows, np.zeros(2)))
  assert volume['difference'] == volume['front'] - volume['others']
  assert volume['low'] < volume['difference'] < volume['high']
  assert volume['worst'] == dict(zip(('movie', 'reuters'), low, strict=True))


def test_a_front_of_baselines_adds_nothing_to_them(scored):
  tasks, held = scored
  held = {name: held[name] for name in RATES} | {
    'front:0': held['ties'],
    'front:1': held['modelwise'],
  }
  goals = objectives.read(TASKS, 'accuracy', ('movie', 'sarcasm'))
  rows = [
    {'name': f'front:{i}', 'recipe_hash': '', 'picked': i == 0, 'why': 'knee'}
    for i in range(2)
  ]
  volume = goals_lib.front(rows, goals, held, TASKS, tasks, 0, 500)['volume']
  # The experts are among the others, at the ends.
  assert volume['difference'] < 0 and volume['high'] < 0


def test_weighted_means_and_likelihoods_are_objectives_too(scored):
  tasks, held = scored
  goals = objectives.read(
    TASKS,
    'accuracy',
    ('mean', 'movie:log_likelihood'),
    task_weights={'movie': 3.0},
  )
  summary = synthetic_report.front(
    ('mean', 'movie:log_likelihood'), goals=goals
  )
  row = summary['front']['members'][0]
  weights = np.array([3, 1, 1, 1]) / 6
  means = [held['front:0']['score'][tasks == t].mean() for t in range(4)]
  cell = row['objectives']['mean']
  assert cell['value'] == pytest.approx(weights @ means)
  assert cell['low'] < cell['value'] < cell['high']
  cell = row['objectives']['movie:log_likelihood']
  likelihood = held['front:0']['log_likelihood'][tasks == 0].mean(dtype=float)
  assert cell['value'] == pytest.approx(likelihood)
  assert cell['low'] < cell['value'] < cell['high'] < 0
  assert summary['objectives'][0]['weights'] == {
    task: pytest.approx(w) for task, w in zip(TASKS, weights, strict=True)
  }


def test_the_plain_mean_has_the_interval_of_the_other_tables():
  summary = synthetic_report.front(('mean', 'movie'))
  cell = summary['front']['others']['ties']['mean']
  mean = summary['models']['ties']['heldout']['mean']
  assert (cell['low'], cell['high']) == (mean['low'], mean['high'])


@pytest.mark.parametrize(
  ('most', 'kept', 'sure', 'words'),
  [
    (0.10, True, True, 'kept'),
    (0.04, True, False, 'kept, not surely'),
    (0.03, False, False, 'broken, not surely'),
    (0.01, False, True, 'broken'),
  ],
)
def test_constraints_are_judged_item_by_item(most, kept, sure, words, scored):
  tasks, held = scored
  summary = synthetic_report.front(('sarcasm', 'reuters'), {'movie': most})
  (row,) = summary['constraints']
  mine = tasks == 0
  test = statistics.mcnemar(
    held['merged']['score'][mine], held['expert:movie']['score'][mine]
  )
  assert (row['difference'], row['low'], row['high']) == test[:3]
  assert (row['reference'], row['most']) == ('expert:movie', most)
  assert (row['kept'], row['sure']) == (kept, sure)
  assert wording.constraint(row) == words
  assert ('breaks 1 constraint (movie falls 3.4' in summary['verdict']) != kept
  broken = [row['broken'] for row in summary['front']['members']]
  drop = [
    held['expert:movie']['score'][mine].mean()
    - held[f'front:{i}']['score'][mine].mean()
    for i in range(4)
  ]
  assert broken == [['movie'] if fall > most else [] for fall in drop]


def test_a_fall_of_just_what_is_allowed_is_kept():
  scores = np.zeros(100)
  scores[:7] = 1
  held = {'merged': {'score': scores}, 'base': {'score': np.roll(scores, 7)}}
  held['base']['score'][20:23] = 1
  goals = objectives.read(['a'], 'accuracy', (), {'a': 0.03})
  (row,) = goals_lib.constraints(goals, held, ['a'], np.zeros(100, int), 0)
  assert row['difference'] == pytest.approx(-0.03) and row['kept']


def test_without_goals_there_is_nothing_of_them():
  summary = synthetic_report.build()
  assert summary['objectives'] == summary['constraints'] == []
  assert summary['front'] is None


def test_equal_scores_give_equal_json(summary):
  again = synthetic_report.front(('movie', 'reuters'), {'sarcasm': 0.05})
  assert json.dumps(again, allow_nan=False) == json.dumps(summary)


def test_a_member_that_could_not_be_scored_stays_in_the_list():
  tasks, scores = synthetic_report.scores(
    RATES | {f'front:{i}': rate for i, rate in enumerate(MEMBERS)}
  )
  for split in scores.values():
    del split['front:3']
  summary = synthetic_report.front(
    ('movie', 'sarcasm'), tasks=tasks, scores=scores
  )
  rows = summary['front']['members']
  assert rows[3]['objectives'] is None and rows[2]['objectives']


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'goals': None}, 'needs the two or more objectives'),
    (
      {'goals': objectives.read(TASKS, 'accuracy', (), {'movie': 0.1}, 'x')},
      'two or more',
    ),
    (
      {
        'goals': objectives.read(
          TASKS, 'accuracy', ('movie', 'mean'), {'movie': 0.1}, 'x'
        )
      },
      "relative to 'x', which has no held-out scores",
    ),
    (
      {
        'front': [
          {'name': 'front:0', 'recipe_hash': '', 'picked': False, 'why': ''}
        ]
      },
      r'picked members are \[\]',
    ),
  ],
)
def test_errors_say_what_is_missing(changes, message):
  with pytest.raises(ValueError, match=message):
    synthetic_report.front(('movie', 'mean'), **changes)


def test_the_front_in_words(summary):
  text = wording.front(summary)
  volume = summary['front']['volume']
  assert 'has 4 merges over movie and reuters' in text
  assert 'the one at its knee' in text
  assert f'covers {100 * volume["front"]:.1f}% of the box' in text


@pytest.mark.parametrize(
  ('depth', 'of', 'words'),
  [
    (4, 6, '4 of 6 layers'),
    (6, 6, '6 layers, as many as the 6 of the base'),
    (9, 6, '9 layers, more than the 6 of the base'),
  ],
)
def test_depth_in_words(depth, of, words):
  assert wording.depth({'depth': depth, 'of': of}) == words


def _stack(*rows, of=4):
  rows = [
    {'sources': [source], 'methods': methods, 'scales': scales}
    for source, methods, scales in rows
  ]
  return {'depth': len(rows), 'of': of, 'layers': rows}


def test_methods_are_told_where_they_differ():
  mixed = _stack(
    (0, ['ties'], []),
    (1, ['ties'], []),
    (2, ['slerp'], []),
    (3, ['slerp', 'task_arithmetic'], []),
  )
  assert wording.by_layer(mixed) == (
    'layers 0 to 1 by ties, layer 2 by slerp, layer 3 by slerp and task '
    'arithmetic'
  )
  assert not wording.restacked(mixed)
  alike = _stack((0, ['linear'], []), (1, ['linear'], []), of=2)
  assert wording.by_layer(alike) == wording.by_layer(None) == ''


@pytest.mark.parametrize(
  'program',
  [
    _stack((0, ['linear'], []), (1, ['linear'], [])),
    _stack((0, ['linear'], []), (0, ['linear'], []), of=2),
    _stack((0, ['linear'], []), (1, ['linear'], [0.9]), of=2),
  ],
)
def test_fewer_moved_or_scaled_layers_are_a_stack_of_its_own(program):
  assert wording.restacked(program) and not wording.restacked(None)
