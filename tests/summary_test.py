"""The summary says what the scores say, in numbers and in words."""

import json

import numpy as np
import pytest
import synthetic_report
from synthetic_report import RATES, TASKS

from automerge_jax.report import wording
from automerge_jax.search import statistics


def _rates(**changes):
  return {**RATES, **{k.replace('__', ':'): v for k, v in changes.items()}}


def test_numbers_are_those_of_the_scores():
  tasks, scores = synthetic_report.scores()
  summary = synthetic_report.build()
  held, mine = scores['heldout'], tasks['heldout'] == 1
  row = summary['models']['uniform']['heldout']['tasks']['sarcasm']
  right = held['uniform']['score'][mine]
  assert row['accuracy'] == right.mean() and row['n'] == 1000
  assert (row['low'], row['high']) == statistics.wilson(right.sum(), 1000)
  np.testing.assert_allclose(
    row['log_likelihood'],
    held['uniform']['log_likelihood'][mine].mean(),
    rtol=1e-5,
  )
  mean = summary['models']['merged']['heldout']['mean']
  accuracies = [
    summary['models']['merged']['heldout']['tasks'][task]['accuracy']
    for task in TASKS
  ]
  np.testing.assert_allclose(mean['accuracy'], np.mean(accuracies))
  assert mean['low'] < mean['accuracy'] < mean['high']


def test_experts_are_scored_on_their_own_task():
  summary = synthetic_report.build()
  own = [
    summary['models'][f'expert:{task}']['heldout']['tasks'][task]['accuracy']
    for task in TASKS
  ]
  mean = summary['experts_on_own_task']['heldout']['mean']['accuracy']
  np.testing.assert_allclose(mean, np.mean(own))
  models = summary['models']
  ours, floor = (
    models[name]['heldout']['mean']['accuracy']
    for name in ('merged', 'task_arithmetic')
  )
  gap = summary['gap_closed']
  np.testing.assert_allclose(gap['value'], (ours - floor) / (mean - floor))
  assert gap['low'] < gap['value'] < gap['high'] and gap['reason'] is None


def test_comparisons_agree_with_the_scores():
  summary = synthetic_report.build()
  models, comparisons = summary['models'], summary['comparisons']
  for name in set(models) - {'merged'}:
    row = comparisons[f'merged_vs_{name}']
    difference = (
      models['merged']['heldout']['mean']['accuracy']
      - models[name]['heldout']['mean']['accuracy']
    )
    np.testing.assert_allclose(row['difference'], difference, atol=1e-12)
    assert row['low'] <= difference <= row['high']
  for task in TASKS:
    test = comparisons['merged_vs_own_expert'][task]
    np.testing.assert_allclose(
      test['difference'], (test['gained'] - test['lost']) / 1000
    )
    assert test['p'] <= test['p_holm'] <= min(1, 4 * test['p'])


def test_equal_scores_give_equal_json_and_only_that():
  first = json.dumps(synthetic_report.build(), allow_nan=False)
  assert first == json.dumps(synthetic_report.build(), allow_nan=False)
  other = synthetic_report.build(seed=1)
  assert first != json.dumps(other, allow_nan=False)


def test_the_search_is_totalled_from_its_log():
  summary = synthetic_report.build()
  log, _ = synthetic_report.search_log()
  assert summary['search']['items'] == log[-1]['items']
  assert summary['search']['generations'] == len(log)
  assert [row['incumbent'] for row in summary['search']['curve']] == [
    row['incumbent'] for row in log
  ]


def test_optimism_is_search_minus_heldout():
  optimism = synthetic_report.build()['optimism']
  np.testing.assert_allclose(
    optimism['difference'], optimism['search'] - optimism['heldout']
  )
  assert optimism['low'] < optimism['difference'] < optimism['high']


def test_verdict_of_a_better_merge():
  summary = synthetic_report.build()
  text = summary['verdict']
  mean = summary['models']['merged']['heldout']['mean']['accuracy']
  row = summary['comparisons']['merged_vs_task_arithmetic']
  assert f'{100 * mean:.1f}% on held-out items, averaged over 4 tasks' in text
  assert f'{100 * row["difference"]:.1f} points above tuned task arith' in text
  assert 'falls short of the experts on every task' in text
  assert text.count('. ') == 0 and text.endswith('.')


def test_verdict_of_a_merge_that_cannot_be_told_apart():
  summary = synthetic_report.build(_rates(merged=(0.752, 0.771, 0.879, 0.861)))
  assert 'cannot be told apart from tuned task arith' in summary['verdict']
  assert ' above tuned' not in summary['verdict']


def test_verdict_of_a_worse_merge_names_the_better_model():
  summary = synthetic_report.build(_rates(merged=(0.70, 0.70, 0.80, 0.80)))
  assert 'points below tuned task arithmetic (−' in summary['verdict']
  assert 'points below model-wise search (−' in summary['verdict']


def test_verdict_of_a_gain_that_another_model_surpasses():
  summary = synthetic_report.build(_rates(modelwise=(0.85, 0.88, 0.96, 0.97)))
  assert ' above tuned task arithmetic (' in summary['verdict']
  assert ') but ' in summary['verdict']
  assert wording.better_model(summary) == 'modelwise'
  assert wording.better_model(synthetic_report.build()) is None


def test_verdict_where_the_merge_is_the_baseline():
  summary = synthetic_report.build(
    _rates(merged=RATES['task_arithmetic']),
    recipe_hashes={'merged': 'aa', 'task_arithmetic': 'aa'},
  )
  assert 'is the recipe of tuned task arithmetic' in summary['verdict']


def test_verdict_on_each_task_follows_the_adjusted_p_values():
  summary = synthetic_report.build(
    _rates(merged=(0.90, 0.87, 0.60, 0.95), expert__movie=(0.80, 0.5, 0.5, 0.4))
  )
  tail = summary['verdict'].split('; ')[-1]
  assert tail == (
    'it falls short of the expert on election, is above the expert on movie '
    'and cannot be told apart from the experts on sarcasm and reuters.'
  )


def test_no_gap_is_said():
  rates = {name: (0.8,) * 4 for name in RATES}
  rates['task_arithmetic'] = (0.9,) * 4
  gap = synthetic_report.build(rates)['gap_closed']
  assert gap['value'] is None and 'not above the baseline' in gap['reason']


def test_a_missing_model_is_named():
  rates = {k: v for k, v in RATES.items() if k != 'expert:movie'}
  with pytest.raises(ValueError, match=r"no heldout scores of \['expert:movi"):
    synthetic_report.build(rates)


def test_an_empty_log_is_refused():
  with pytest.raises(ValueError, match='no generation was finished'):
    synthetic_report.build(log=[])


@pytest.mark.parametrize(
  'value,text',
  [(0.029, '+2.9'), (-0.0121, '−1.2'), (0.0004, '0.0'), (-0.0004, '0.0')],
)
def test_points(value, text):
  assert wording.points(value) == text


def test_listing():
  assert wording.listing(['a']) == 'a'
  assert wording.listing(['a', 'b', 'c']) == 'a, b and c'


def test_weights_of_tasks_count_in_every_mean():
  weights = {'movie': 5.0}
  summary = synthetic_report.build(weights=weights)
  share = np.array([5, 1, 1, 1]) / 8
  assert list(summary['weights'].values()) == share.tolist()
  for model in summary['models'].values():
    held = model['heldout']
    for key in ('accuracy', 'log_likelihood'):
      want = share @ [held['tasks'][task][key] for task in TASKS]
      np.testing.assert_allclose(held['mean'][key], want)
    assert held['mean']['low'] < held['mean']['accuracy'] < held['mean']['high']
  models = summary['models']
  for name in set(models) - {'merged'}:
    found = summary['comparisons'][f'merged_vs_{name}']['difference']
    means = [models[m]['heldout']['mean'] for m in ('merged', name)]
    np.testing.assert_allclose(
      found, means[0]['accuracy'] - means[1]['accuracy'], atol=1e-12
    )
  own = share @ [
    models[f'expert:{task}']['heldout']['tasks'][task]['accuracy']
    for task in TASKS
  ]
  ours, floor = (
    models[name]['heldout']['mean']['accuracy']
    for name in ('merged', 'task_arithmetic')
  )
  np.testing.assert_allclose(
    summary['gap_closed']['value'], (ours - floor) / (own - floor)
  )
  np.testing.assert_allclose(summary['optimism']['heldout'], ours)
  assert 'averaged over 4 tasks by their weights (' in summary['verdict']


def test_equal_weights_are_none():
  plain = synthetic_report.build()
  assert plain['weights'] is None
  same = synthetic_report.build(weights=dict.fromkeys(TASKS, 2.0))
  assert same == plain
  assert 'by their weights' not in plain['verdict']


def test_resolution_is_of_the_merge_and_tuned_task_arithmetic():
  tasks, scores = synthetic_report.scores()
  summary = synthetic_report.build()
  for split, row in summary['resolution'].items():
    pair = [scores[split][m]['score'] for m in ('merged', 'task_arithmetic')]
    np.testing.assert_allclose(
      row['discordant'], np.mean(pair[0] != pair[1]), rtol=1e-6
    )
    assert row['items'] == synthetic_report.SIZES[split]
    means = [statistics.task_mean(one, tasks[split]) for one in pair]
    np.testing.assert_allclose(row['difference'], means[0] - means[1])
    assert row['detectable'] == statistics.detectable(
      [row['items']] * 4, row['discordant']
    )


def test_a_gain_that_the_search_could_not_see_is_doubted():
  near = _rates(merged=(0.77, 0.79, 0.89, 0.87))
  summary = synthetic_report.build(near)
  row = summary['comparisons']['merged_vs_task_arithmetic']
  assert row['low'] > 0
  assert row['difference'] < summary['resolution']['search']['detectable']
  (text,) = summary['warnings']
  assert f'gain of {wording.percent(row["difference"])} points' in text
  more = {'search': 1000, 'select': 200, 'heldout': 1000}
  assert not synthetic_report.build(near, more)['warnings']
  # Where nothing is claimed there is nothing to doubt.
  assert not synthetic_report.build(RATES | {'merged': (0.5,) * 4})['warnings']


def test_what_was_not_told_is_null():
  summary = synthetic_report.build()
  for key in ('plan', 'contest', 'generalisation'):
    assert summary[key] is None
  assert summary['search']['spending'] is None
  assert summary['search']['screening'] is None
  told = synthetic_report.extras()
  full = json.loads(json.dumps(synthetic_report.build(**told)))
  for key in ('plan', 'contest', 'generalisation'):
    assert full[key] == json.loads(json.dumps(told[key])), key
  assert full['search']['spending'] == told['spending']
