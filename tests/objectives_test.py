"""Objectives and constraints as settings state them."""

import numpy as np
import pytest

from automerge_jax.search import objectives

TASKS = ('maths', 'chat', 'code')
BY_TASK = {
  'accuracy': np.asarray([0.5, 0.8, 0.2]),
  'log_likelihood': np.asarray([-1.0, -2.0, -6.0]),
}


def test_the_mean_is_what_stands_for_nothing():
  found = objectives.read(TASKS, 'log_likelihood')
  np.testing.assert_allclose(found.values(BY_TASK), [-3.0])
  assert not found.constrained
  assert found.violation(BY_TASK, None) == 0.0


def test_tasks_and_metrics_are_objectives_by_name():
  found = objectives.read(
    TASKS, 'accuracy', ('chat', 'maths:log_likelihood', 'mean')
  )
  np.testing.assert_allclose(found.values(BY_TASK), [0.8, -1.0, 0.5])
  assert [one.name for one in found.each] == [
    'chat',
    'maths:log_likelihood',
    'mean',
  ]


def test_weights_of_tasks_count_in_the_mean():
  found = objectives.read(TASKS, 'accuracy', task_weights={'chat': 2.0})
  np.testing.assert_allclose(found.values(BY_TASK), [(0.5 + 1.6 + 0.2) / 4])


def test_constraints_add_up_what_fell_too_far():
  found = objectives.read(
    TASKS, 'accuracy', ('maths',), {'*': 0.01, 'code': 0.1}
  )
  assert found.constrained
  reference = np.asarray([0.9, 0.85, 0.25])
  # Maths is an objective and may fall; chat fell by 0.05, code by 0.05.
  np.testing.assert_allclose(found.violation(BY_TASK, reference), 0.04)
  kept = BY_TASK | {'accuracy': np.asarray([0.0, 0.84, 0.15])}
  assert found.violation(kept, reference) == 0.0


@pytest.mark.parametrize(
  ('stated', 'message'),
  [
    ({'objectives': ('math',)}, "'math'.*did you mean 'maths'"),
    ({'objectives': ('chat:f1',)}, "unknown metric 'f1'"),
    ({'objectives': ('chat', 'chat')}, 'stands twice'),
    ({'constraints': {'cod': 0.1}}, "did you mean 'code'"),
    ({'task_weights': {'chat': 0.0}}, 'expected > 0'),
  ],
)
def test_what_is_no_objective_is_refused(stated, message):
  with pytest.raises(ValueError, match=message):
    objectives.read(TASKS, 'accuracy', **stated)
