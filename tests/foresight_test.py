"""What a plan states: its cost, detectable differences, warnings."""

import dataclasses
import pathlib

import numpy as np
import pytest

from automerge_jax.search import climb, fidelity, foresight, statistics
from tests import tiny_suite

TASKS = ('a', 'b', 'c')


def _settings(**changes):
  chosen = {
    'tasks': TASKS,
    'experts': {task: pathlib.Path(task) for task in TASKS},
    'rungs': (50, 200),
    'promote': (),
    'eta': 4,
    'population': 8,
    'candidates': 0,
    'gradient_steps': 0,
    'select': 500,
    'heldout': 1000,
  }
  return tiny_suite.settings(pathlib.Path('none'), **(chosen | changes))


def test_the_plan_costs_what_its_schedule_costs():
  settings = _settings()
  plan = foresight.foresee(settings, TASKS, starts=16, budget=20_000)
  a_generation = 8 * 150 + 2 * 450  # 2 of 8 go on by eta = 4
  count = 20_000 // a_generation
  assert plan['generations'] == count
  assert plan['candidates'] == 8 * count
  assert plan['search_items'] == count * a_generation <= 20_000
  assert plan['rungs'] == [
    {'items': 50, 'candidates': 8 * count},
    {'items': 200, 'candidates': 2 * count},
  ]
  assert plan['full_evaluation'] == 600


@pytest.mark.parametrize('schedule', ['halving', 'hyperband', 'asynchronous'])
def test_a_plan_stays_within_budget_and_candidates(schedule):
  settings = _settings(schedule=schedule, candidates=100)
  plan = foresight.foresee(settings, TASKS, starts=16, budget=60_000)
  assert 100 - 8 < plan['candidates'] <= 100
  assert plan['search_items'] <= 60_000
  less = foresight.foresee(settings, TASKS, starts=16, budget=9_000)
  assert less['candidates'] < plan['candidates']
  assert less['search_items'] <= 9_000
  made = fidelity.schedule(schedule, (50, 200), 8, 4)
  total = sum(made.expected(g) for g in range(plan['generations']))
  np.testing.assert_array_equal(
    [row['candidates'] for row in plan['rungs']], total
  )


def test_climbs_are_charged_and_too_many_are_warned_of():
  settings = _settings(gradient_steps=40, minibatches=8, gradient_every=2)
  plan = foresight.foresee(settings, TASKS, starts=16, budget=50_000)
  a_climb = 40 * 3 * 600 // 8
  assert plan['climbs'] >= 3
  assert plan['climb_items'] == a_climb * plan['climbs']
  assert any('climb along the gradient' in line for line in plan['lines'])
  assert any('most of the budget' in text for text in plan['warnings'])
  fewer = dataclasses.replace(settings, gradient_every=0)
  once = foresight.foresee(fewer, TASKS, starts=16, budget=50_000)
  assert once['climbs'] == 1 and once['climb_items'] == a_climb
  assert not any('most of the budget' in text for text in once['warnings'])
  held = dataclasses.replace(fewer, gradient_validation=0.2)
  made = foresight.foresee(held, TASKS, starts=16, budget=50_000)
  how = climb.Climb(40, 0.1, 8, 'accuracy', 0.2)
  assert made['climb_items'] == climb.cost(how, [200] * 3)


def test_detectable_differences_are_those_of_the_splits():
  settings = _settings(task_weights={'a': 3.0})
  plan = foresight.foresee(settings, TASKS, starts=16, discordant=0.2)
  for split, items in (('search', 200), ('select', 500), ('heldout', 1000)):
    cell = plan['detectable'][split]
    assert cell['items'] == items
    assert cell['difference'] == statistics.detectable(
      [items] * 3, 0.2, [3, 1, 1]
    )
    assert cell['worst'] > cell['difference']
  assert not plan['assumed'] and 'was seen' in plan['lines'][-1]
  plain = foresight.foresee(_settings(), TASKS, starts=16)
  assert plain['discordant'] == foresight.DISCORDANT and plain['assumed']
  found = plain['detectable']['heldout']['difference']
  assert f'{100 * found:.1f} points on held-out items' in plain['lines'][-1]


def test_too_few_items_are_warned_of_with_the_number_that_would_do():
  settings = _settings(select=100)
  plan = foresight.foresee(settings, TASKS, starts=16)
  search, select = plan['warnings']
  assert search.startswith('200 search items') and '100 select' in select
  need = int(search.split('about ')[1].split()[0])
  enough = _settings(rungs=(50, need), select=need)
  assert not foresight.foresee(enough, TASKS, starts=16)['warnings']
  short = _settings(rungs=(50, need * 9 // 10), select=need)
  (warned,) = foresight.foresee(short, TASKS, starts=16)['warnings']
  assert 'search items' in warned


def test_few_items_show_nothing_at_all():
  settings = _settings(rungs=(2, 4), select=4, heldout=4)
  plan = foresight.foresee(settings, TASKS, starts=16)
  assert plan['detectable']['search']['difference'] is None
  assert 'no points on search items' in plan['lines'][-1]
  assert len(plan['warnings']) == 2


def test_flattery_is_that_of_simulated_equal_finalists():
  settings = _settings(finalists=7, select=100)
  plan = foresight.foresee(settings, TASKS, starts=16, discordant=0.2)
  rng = np.random.default_rng(0)
  n = 100 * len(TASKS)
  excess = []
  for _ in range(800):
    # Each model is right on 0.9 of the items, errors are their own.
    wrong = rng.random((8, n)) < (1 - np.sqrt(1 - 2 * 0.2)) / 2
    means = 1 - wrong.mean(axis=1)
    excess.append(means.max() - (1 + np.sqrt(1 - 2 * 0.2)) / 2)
  assert plan['flattery'] == pytest.approx(np.mean(excess), rel=0.06)


def test_start_points_beyond_the_budget_are_said():
  plan = foresight.foresee(_settings(), TASKS, starts=12, budget=1_000)
  assert any('start points alone' in text for text in plan['warnings'])
  assert plan['candidates'] == 12


def test_few_start_points_are_planned_in_full():
  settings = _settings(explore=3)
  plan = foresight.foresee(settings, TASKS, starts=8, budget=4_500)
  # 5 in full and 3 at the first rung, then generations of 8 with 2 in full.
  first, later = 8 * 150 + 5 * 450, 8 * 150 + 2 * 450
  assert plan['generations'] == 1 and first + later > 4_500
  assert plan['search_items'] == first
  assert [row['candidates'] for row in plan['rungs']] == [8, 5]
