"""Who is compared on select items."""

import numpy as np

from automerge_jax import finalists
from automerge_jax.search import plan
from automerge_jax.search.ledger import Candidate

NAN = np.nan


def _scored(recipe, values, origin='search', failure=None, stopped=False):
  values = np.asarray(values, float)
  return plan.Scored(
    0,
    Candidate(origin, recipe, np.zeros(2)),
    tuple(values.tolist()),
    values[:, None],
    (0.0,) * len(values),
    (0.5,),
    failure,
    0,
    stopped,
  )


def _names(scored, most):
  return [row.candidate.recipe for row in finalists.among(scored, most)]


RUN = [
  _scored('low', [0.99, NAN]),
  _scored('third', [0.5, 0.6]),
  _scored('best', [0.4, 0.9]),
  _scored('second', [0.7, 0.8]),
  _scored('best', [0.4, 0.9]),
  _scored('stopped', [0.95, NAN], stopped=True),
  _scored('failed', [0.97, NAN], failure='not finite'),
]


def test_different_recipes_of_the_highest_rung_best_first():
  assert _names(RUN, 2) == ['best', 'second']
  assert _names(RUN, 9) == ['best', 'second', 'third']


def test_what_a_climb_ended_with_is_among_them():
  climbed = [
    _scored('half', [0.8, NAN], 'gradient:half@10'),
    _scored('end', [0.8, NAN], 'gradient:end@20'),
    _scored('worse end', [0.7, NAN], 'gradient:end@18'),
    _scored('mean', [0.3, 0.5], 'gradient:mean@20'),
  ]
  assert _names([*RUN, *climbed], 2) == ['best', 'second', 'end', 'mean']
  # Not twice, and never who lost a race.
  good = _scored('best', [0.4, 0.9], 'gradient:mean@20')
  lost = _scored('lost', [0.8, NAN], 'gradient:end@20', stopped=True)
  assert _names([*RUN, good, lost], 2) == ['best', 'second']


def test_where_none_completed_the_last_rung_the_one_below_counts():
  assert _names(RUN[:1], 3) == ['low']
  # All of them were stopped: there is nothing else to choose from.
  assert _names(RUN[5:6], 3) == ['stopped']
  assert _names(RUN[6:], 3) == []


def test_the_best_start_point_is_among_them():
  starts = [
    _scored('expert', [0.2, 0.3], 'expert:a'),
    _scored('uniform', [0.2, 0.4], 'uniform'),
    _scored('early', [0.9, NAN], 'weight:0.5'),
    _scored('anywhere', [0.2, 0.5], 'explore'),
  ]
  assert _names([*RUN, *starts], 2) == ['best', 'second', 'uniform']
  leading = _scored('lead', [0.9, 0.95], 'expert:b')
  assert _names([*RUN, *starts, leading], 2) == ['lead', 'best']


def test_on_a_front_all_start_points_are_among_them():
  def scored(recipe, first, second, origin='search'):
    row = _scored(recipe, [first + second], origin)
    return row._replace(objectives=np.asarray([[first, second]]))

  found = [
    scored('best', 0.9, 0.9),
    scored('expert', 0.8, 0.1, 'expert:a'),
    scored('uniform', 0.2, 0.2, 'uniform'),
    scored('other', 0.8, 0.8),
  ]
  assert _names(found, 1) == ['best', 'expert', 'uniform']
