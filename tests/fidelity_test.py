"""Rungs are nested and stratified; schedules promote who they should, once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge_jax.search import brackets, fidelity, fronts
from tests import tiny_items

LABELS = {'a': [0] * 30 + [1] * 10, 'b': [0, 1, 2] * 20}


@pytest.fixture
def items():
  """Two tasks, their items mixed."""
  task = np.repeat([0, 1], [len(LABELS['a']), len(LABELS['b'])])
  label = np.concatenate([LABELS['a'], LABELS['b']])
  order = np.random.default_rng(3).permutation(len(task))
  return tiny_items.classified(
    ('a', 'b'),
    tuple(f'item{i}' for i in range(len(task))),
    ((1,),) * len(task),
    task[order].astype(np.int32),
    label[order].astype(np.int32),
  )


def test_each_rung_adds_its_items_once(items):
  added = fidelity.increments(items, (8, 20, 40), seed=0)
  together = np.concatenate(added)
  assert len(set(together.tolist())) == len(together) == 80
  for rung, size in enumerate((8, 20, 40)):
    so_far = np.concatenate(added[: rung + 1])
    assert np.bincount(items.task[so_far]).tolist() == [size, size]


def test_every_rung_has_the_labels_in_proportion(items):
  added = fidelity.increments(items, (8, 20, 40), seed=1)
  for rung, size in enumerate((8, 20, 40)):
    so_far = np.concatenate(added[: rung + 1])
    for task, name in enumerate(items.tasks):
      have = np.bincount(items.label[so_far[items.task[so_far] == task]])
      want = np.bincount(LABELS[name]) / len(LABELS[name]) * size
      np.testing.assert_allclose(have, want, atol=1.01)


def test_the_seed_alone_draws_the_items(items):
  one, same, other = (
    fidelity.increments(items, (8, 20), seed)[0].tolist() for seed in (5, 5, 6)
  )
  assert one == same
  assert sorted(one) != sorted(other)


@pytest.mark.parametrize('sizes', [(), (0, 5), (5, 5), (9, 5)])
def test_sizes_must_ascend(items, sizes):
  with pytest.raises(ValueError, match='expected ascending'):
    fidelity.increments(items, sizes, 0)


def test_too_few_items_are_named(items):
  with pytest.raises(ValueError, match=r"task 'a' has 40 .* needs 41"):
    fidelity.increments(items, (8, 41), 0)


def test_by_task_weighs_items_within_their_task():
  scores = np.asarray([1, 0, 0, 0, 1], np.float32)
  means = fidelity.by_task(scores, np.asarray([0, 1, 1, 1, 1]))
  np.testing.assert_array_equal(means, [1.0, 0.25])


def play(
  schedule, rungs, population, generations, seed, fails=0.0, gain=0.0, goals=1
):
  """What a search does: (generation, rung, position) of all that was scored.

  Scores rise by `gain` a generation; some fail, and are in no order then. The
  second goal is unrelated to the first.
  """
  rng = np.random.default_rng(seed)
  total = population * generations
  begun = np.full(total, -1)
  generation_of = np.repeat(np.arange(generations), population)
  # A score at each rung, higher rungs less noisy.
  merit = rng.normal(size=total) + gain * generation_of
  scores = merit[:, None] + rng.normal(size=(total, rungs)) / (
    1 + np.arange(rungs)
  )
  scores[rng.random(scores.shape) < fails] = np.nan
  scores = np.where(np.isnan(scores).cumsum(1), np.nan, scores)
  values = np.stack([scores, rng.normal(size=scores.shape) + 0 * scores], -1)
  log = []
  for g in range(generations):
    chosen = np.flatnonzero(generation_of == g)
    log += [(g, r, i) for r in range(schedule.start(g) + 1) for i in chosen]
    begun[chosen] = schedule.start(g)
    for rung in range(schedule.start(g), rungs - 1):
      scored = np.flatnonzero((begun >= rung) & ~np.isnan(scores[:, rung]))
      best = scored[fronts.order(values[scored, rung, :goals])]
      chosen = schedule.promoted(rung, g, begun, generation_of, best)
      assert len(chosen) <= schedule.most(rung)
      assert (begun[chosen] == rung).all()
      begun[chosen] = rung + 1
      log += [(g, rung + 1, i) for i in chosen]
  return log, scores


SCHEDULES = st.builds(
  lambda name, rungs, population, eta: (
    fidelity.schedule(name, [9 * 2**r for r in range(rungs)], population, eta),
    rungs,
    population,
  ),
  st.sampled_from(['halving', 'hyperband', 'asynchronous']),
  st.integers(1, 4),
  st.integers(1, 12),
  st.integers(2, 5),
)


@settings(max_examples=60, deadline=None)
@given(
  SCHEDULES,
  st.integers(0, 99),
  st.sampled_from([0.0, 0.3, 0.9]),
  st.integers(1, 2),
)
def test_promoted_were_scored_did_not_fail_and_come_once(
  made, seed, fails, goals
):
  schedule, rungs, population = made
  log, scores = play(schedule, rungs, population, 9, seed, fails, goals=goals)
  assert len({(rung, i) for _, rung, i in log}) == len(log)
  rung_of = {(i, rung): g for g, rung, i in log}
  for g, rung, i in log:
    if rung > schedule.start(i // population):
      assert not np.isnan(scores[i, rung - 1])
      assert rung_of[i, rung - 1] <= g


@settings(max_examples=40, deadline=None)
@given(
  st.sampled_from(['halving', 'hyperband']),
  st.integers(1, 4),
  st.integers(1, 30),
  st.integers(2, 5),
  st.integers(0, 99),
)
def test_without_failures_a_generation_scores_what_was_expected(
  name, rungs, population, eta, seed
):
  schedule = fidelity.schedule(
    name, [5 * eta**r for r in range(rungs)], population, eta
  )
  log, _ = play(schedule, rungs, population, 7, seed)
  have = np.zeros((7, rungs), int)
  for g, rung, _ in log:
    have[g, rung] += 1
  np.testing.assert_array_equal(have, [schedule.expected(g) for g in range(7)])


def test_halving_promotes_the_best_of_a_generation_only():
  schedule = fidelity.schedule('halving', (10, 40), 4, 2)
  begun = np.asarray([1, 0, 0, 0, 0, 0, 0, 0])
  of = np.repeat([0, 1], 4)
  best = np.asarray([1, 6, 0, 4, 2, 7, 3])  # 5 failed
  assert schedule.promoted(0, 1, begun, of, best).tolist() == [6, 4]
  assert schedule.promoted(0, 0, begun, of, best).tolist() == [1, 2]


def test_stated_counts_replace_eta():
  schedule = fidelity.schedule('halving', (10, 40, 80), 16, 4, (5, 2))
  assert schedule.expected(3).tolist() == [16, 5, 2]
  assert [schedule.most(0), schedule.most(1)] == [5, 2]


def test_halving_by_eta_keeps_at_least_one():
  schedule = fidelity.schedule('halving', (10, 20, 40, 80), 11, 3)
  assert schedule.expected(0).tolist() == [11, 3, 1, 1]


def test_rounds_of_hyperband_have_the_proportions_of_its_brackets():
  rungs = (111, 333, 1000)
  schedule = fidelity.schedule('hyperband', rungs, 9, 3)
  shares = [s[0].candidates for s in brackets.hyperband(3, rungs)]
  assert shares == [9, 5, 3]
  for rounds in range(1, 4):
    starts = [schedule.start(g) for g in range(17 * rounds)]
    assert np.bincount(starts).tolist() == [rounds * n for n in shares]
  assert [schedule.start(g) for g in range(7)] == [0, 1, 0, 2, 0, 1, 0]
  assert schedule.expected(0).tolist() == [9, 3, 1]
  assert schedule.expected(1).tolist() == [9, 9, 3]
  assert schedule.expected(3).tolist() == [9, 9, 9]


@settings(max_examples=60, deadline=None)
@given(
  st.integers(2, 4),
  st.integers(1, 12),
  st.integers(2, 5),
  st.integers(0, 99),
  st.sampled_from([0.0, 0.3]),
  st.sampled_from([0.0, 0.5]),
)
def test_asynchronous_is_asha_one_at_a_time(
  rungs, population, eta, seed, fails, gain
):
  """Against the published loop: promote one, look again, until nobody can."""
  schedule = fidelity.schedule(
    'asynchronous', list(range(1, rungs + 1)), population, eta
  )
  log, scores = play(schedule, rungs, population, 8, seed, fails, gain)
  done = [set() for _ in range(rungs)]  # scored or failed at each rung
  replay = []
  for g in range(8):
    mine = range(g * population, (g + 1) * population)
    done[0] |= set(mine)
    replay += [(g, 0, i) for i in mine]
    for rung in range(rungs - 1):
      rated = {i: scores[i, rung] for i in done[rung]}
      keep = sorted(
        (i for i in rated if not np.isnan(rated[i])), key=lambda i: -rated[i]
      )[: len(rated) // eta]
      while ready := [i for i in keep if i not in done[rung + 1]]:
        done[rung + 1].add(ready[0])
        replay.append((g, rung + 1, ready[0]))
  assert log == replay


def test_asynchronous_approaches_one_in_eta():
  schedule = fidelity.schedule('asynchronous', (10, 30, 90), 9, 3)
  log, _ = play(schedule, 3, 9, 90, seed=0)
  counts = np.bincount([rung for _, rung, _ in log])
  assert counts[0] == 810
  # At least the best third, and some that were of it for a time.
  assert (counts[1:] >= counts[:-1] // 3).all()
  assert (counts[1:] <= counts[:-1] / 3 * 1.15).all(), counts
  expected = np.sum([schedule.expected(g) for g in range(90)], axis=0)
  assert expected.tolist() == [810, 270, 90]


def test_asynchronous_leaves_who_is_too_many_for_later():
  schedule = fidelity.schedule('asynchronous', (10, 30), 2, 2)
  begun, of = np.zeros(8, int), np.repeat(np.arange(4), 2)
  best = np.arange(8)[::-1]
  first = schedule.promoted(0, 3, begun, of, best)
  assert first.tolist() == [7, 6]
  begun[first] = 1
  assert schedule.promoted(0, 4, begun, of, best).tolist() == [5, 4]
  begun[[5, 4]] = 1
  assert schedule.promoted(0, 5, begun, of, best).tolist() == []


@pytest.mark.parametrize(
  ('name', 'promote'),
  [
    ('hyperband', (2,)),
    ('asynchronous', (2,)),
    ('halving', (2, 1)),
    ('halving', (9,)),
    ('halving', (0,)),
  ],
)
def test_stated_counts_must_fit(name, promote):
  with pytest.raises(ValueError, match='leave it out to promote by eta'):
    fidelity.schedule(name, (10, 40), 8, 4, promote)


def test_an_unknown_schedule_is_refused():
  with pytest.raises(ValueError, match="'grid': expected 'halving', 'hyper"):
    fidelity.schedule('grid', (10, 40), 8, 4)
