"""Start points that are all scored in full, and candidates from anywhere."""

import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import searching
from automerge_jax.search import baselines, gradient
from automerge_jax.search import job as jobs
from automerge_jax.search import space as spaces
from automerge_jax.search.ledger import Ledger
from automerge_jax.spaces import published
from tests import tiny_suite

FEW = {
  'weights': (0.5,),
  'explore': 3,
  'candidates': 14,
  'population': 6,
  'promote': (1,),
  'gradient_steps': 0,
}


@pytest.fixture(scope='module')
def search(tiny, tmp_path_factory):
  """`changes -> Outcome` of a short search."""
  job = jobs.load(tiny_suite.settings(tiny, **FEW))

  def run(**changes):
    settings = tiny_suite.settings(tiny, **(FEW | changes))
    space = spaces.build(settings, job.family, job.experts, 'base')
    place = tmp_path_factory.mktemp('explore')
    with Ledger(place / 'ledger.sqlite') as ledger:
      return searching.search(settings, job, space, ledger, place)

  return run


def _rungs(outcome, origin):
  """Highest rung of each candidate whose origin begins so."""
  return [
    row.rung
    for row in outcome.scored
    if row.candidate.origin.startswith(origin)
  ]


def test_few_start_points_are_scored_in_full_and_others_as_promoted(search):
  outcome = search()
  for origin in ('expert:', 'uniform', 'weight:'):
    assert set(_rungs(outcome, origin)) == {1}, origin
  assert len(_rungs(outcome, baselines.EXPLORE)) == 3
  assert _rungs(outcome, baselines.EXPLORE).count(1) <= 2  # of two generations
  assert _rungs(outcome, 'search').count(1) == 1  # of six
  items = sum(16 * 3 + 32 * 3 * (row.rung == 1) for row in outcome.scored)
  assert outcome.items == items


def test_many_start_points_are_promoted_like_others(search):
  outcome = search(weights=(0.3, 0.4, 0.5, 0.6), explore=0, candidates=8)
  starts = [row for row in outcome.scored if row.candidate.origin != 'search']
  assert len(starts) == 8
  assert sum(row.rung for row in starts) == 2  # one a generation


def test_explored_are_a_latin_hypercube_of_the_seed(tiny):
  settings = tiny_suite.settings(tiny)
  job = jobs.load(settings)
  space = spaces.build(settings, job.family, job.experts, 'base')
  found = baselines.explored(space, 8, seed=3)
  assert {origin for origin, _ in found} == {baselines.EXPLORE}
  x = np.stack([space.encode(jnp.asarray(c)) for _, c in found])
  parts = np.sort(np.floor(np.clip(x, 0, 0.999) * 8), axis=0)
  np.testing.assert_allclose(parts, np.arange(8)[:, None] + 0 * parts, atol=1)
  assert len(np.unique(x[:, 0])) == 8
  again = baselines.explored(space, 8, seed=3)
  np.testing.assert_array_equal([c for _, c in again], [c for _, c in found])
  other = baselines.explored(space, 8, seed=4)
  assert not np.array_equal([c for _, c in other], [c for _, c in found])
  assert baselines.explored(space, 0, seed=3) == ()


def test_gradients_follow_the_numbers_of_the_published_layout(tiny):
  job = jobs.load(tiny_suite.settings(tiny))
  space = published.space(job.family, job.experts, 'base')
  named = dict(zip(space.names, gradient.movable(space), strict=True))
  free = {name for name, moves in named.items() if moves}
  assert all('linear' in n or 'scaling_coefficient' in n for n in free)
  assert not [n for n in named if 'linear_param' in n and n not in free]
  assert not [n for n in free if 'selection' in n or 'mask_rate' in n]
