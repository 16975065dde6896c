"""The test that stops candidates: by hand, by chance, and where it must not."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from automerge_jax.search import racing
from automerge_jax.search.ledger import Scores
from tests import tiny_items

LOOKS, ERROR = 4, 0.05
RUNS = 4000
TASK = np.repeat(np.arange(3), 32)  # 96 items of three tasks
BLOCK = np.tile(np.arange(LOOKS), 24)
WEIGHTS = np.asarray([[0.5, 0.3, 0.2]], np.float32)


def _reference(mine, theirs, task, weights):
  """By how much a candidate is behind, [J, M], in plain numpy."""
  result = np.zeros((len(theirs), len(weights)))
  for j, values in enumerate(theirs):
    for m, weight in enumerate(weights):
      gap = np.float64(mine[m]) - np.float64(values[m])
      terms = []
      for t in np.flatnonzero(weight):
        known = gap[(task == t) & np.isfinite(gap)]
        if not len(known):
          break
        known = np.where(abs(known) > racing.ROUNDING, known, 0)
        terms += list(weight[t] * known / len(known))
      else:
        if np.any(terms):
          terms.append(np.abs(terms).max())
          result[j, m] = -np.sum(terms) / np.sqrt(np.sum(np.square(terms)))
  return result


def _random(seed, n=60, objectives=2, rivals=3):
  rng = np.random.default_rng(seed)
  task = rng.integers(0, 4, n)
  mine = rng.normal(size=(objectives, n))
  theirs = mine + rng.normal(0.3, 1, (rivals, objectives, n))
  same = rng.random(theirs.shape) < 0.3
  theirs = np.where(same, mine, theirs)
  theirs[rng.random(theirs.shape) < 0.1] = np.nan
  weights = rng.dirichlet(np.ones(4), objectives)
  weights[0, 1] = 0.0
  return [np.float32(x) for x in (mine, theirs)] + [task, np.float32(weights)]


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('n', [3, 60])
def test_the_statistic_is_that_of_a_plain_loop(seed, n):
  mine, theirs, task, weights = _random(seed, n)
  found = racing.pairs(mine, theirs, task, 4)
  want = _reference(mine, theirs, task, weights)
  np.testing.assert_allclose(
    racing.statistic(found, weights), want, rtol=1e-4, atol=1e-5
  )
  with jax.disable_jit():
    eager = racing.pairs(mine, theirs, task, 4)
  for a, b in zip(found, eager, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
  assert (n == 60) == bool((want != 0).all())  # few items miss a task


def test_parts_of_the_items_add_up():
  mine, theirs, task, _ = _random(7)
  whole = racing.pairs(mine, theirs, task, 4)
  none = racing.pairs(mine[:, :0], theirs[..., :0], task[:0], 4)
  assert not any(leaf.any() for leaf in none)
  parts = [
    racing.pairs(mine[:, at], theirs[..., at], task[at], 4)
    for at in (slice(0, 25), slice(25, 60))
  ]
  for joined in (racing.together(*parts), racing.together(whole, none)):
    for a, b in zip(joined, whole, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_of_right_and_wrong_the_exact_tail_is_below_the_normal_one():
  """So the level holds for any number of items, however few."""
  worst = 0.0
  for n in range(1, 400):
    losses = np.arange(n // 2 + 1, n + 1)
    z = (2 * losses - n - 1) / np.sqrt(n + 1)
    ratio = stats.binom.sf(losses - 1, n, 0.5) / stats.norm.sf(z)
    worst = max(worst, ratio.max())
  assert worst <= 1 + 1e-9


@pytest.mark.parametrize('rivals', [1, 3])
def test_who_is_stopped_is_so_by_the_exact_binomial_test(rivals):
  race = racing.race(LOOKS, ERROR, ['accuracy'])
  level = ERROR / ((LOOKS - 1) * rivals)
  grid = [(wins, losses) for wins in range(6) for losses in range(30)]
  mine = np.ones((len(grid), 1, 40))
  theirs = np.ones((len(grid), 1, 1, 40))
  for row, (wins, losses) in enumerate(grid):
    theirs[row, ..., :wins] = 0
    mine[row, :, wins : wins + losses] = 0
  theirs = np.concatenate([theirs, mine[:, None], mine[:, None]], 1)

  @jax.jit
  @jax.vmap
  def stopped(mine, theirs):
    found = racing.pairs(mine, theirs, jnp.zeros(40, int), 1)
    counts = jnp.arange(3) < rivals
    return racing.stopped(race, found, jnp.ones((1, 1)), counts)

  hit = np.asarray(stopped(mine, theirs))
  stops = [pair for pair, is_hit in zip(grid, hit, strict=True) if is_hit]
  for wins, losses in stops:
    assert stats.binom.sf(losses - 1, wins + losses, 0.5) <= level
  first = [min(b for a, b in stops if a == wins) for wins in range(6)]
  exact = [
    next(b for b in range(40) if stats.binom.sf(b - 1, w + b, 0.5) <= level)
    for w in range(6)
  ]
  assert all(0 <= a - b <= 3 for a, b in zip(first, exact, strict=True))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _looks(race, mine, theirs, below, objectives_of):
  """Blocks that each of R candidates is scored on, [R]."""
  weights = jnp.asarray(np.asarray(objectives_of, np.float32))

  def one(mine, theirs, below):
    alive, looks = jnp.ones((), bool), jnp.zeros((), int)
    for look in range(race.looks):
      looks += alive
      seen = jnp.where(BLOCK <= look, mine, jnp.nan)
      found = racing.pairs(seen, theirs, TASK, 3)
      found = racing.together(found, below)
      counts = jnp.ones(len(theirs), bool)
      alive &= ~racing.stopped(race, found, weights, counts)
    return looks

  return jax.vmap(one)(mine, theirs, below)


def _blocks(mine, theirs, metrics=('accuracy',), weights=WEIGHTS, below=None):
  """Likewise, of values [R, M, n] and [R, J, M, n]."""
  race = racing.race(LOOKS, ERROR, metrics)
  if below is None:
    shape = (len(mine), theirs.shape[1], len(metrics), 3)
    below = racing.Pairs(*np.zeros((4, *shape), np.float32))
  return np.asarray(
    _looks(
      race,
      np.float32(mine),
      np.float32(theirs),
      below,
      tuple(map(tuple, weights.tolist())),
    )
  )


def _answers(rng, skill, shape):
  """Right and wrong answers of models to the same items, [R, models, 1, n].

  Items differ in difficulty for all of them, so models are right together.
  """
  hard = rng.normal(0, 2, (shape[0], 1, 1, shape[-1]))
  noise = rng.logistic(size=shape)
  return (np.reshape(skill, (1, -1, 1, 1)) + noise > hard).astype(float)


def _tails(kind, rng, shape):
  """Heavy-tailed log-likelihoods of equally good models, [R, models, 1, n]."""
  shared = -rng.exponential(2, (shape[0], 1, 1, shape[-1]))
  own = {
    'student': lambda: rng.standard_t(2, shape),
    'exponential': lambda: -rng.exponential(1, shape),
    'log_normal': lambda: -rng.lognormal(0, 1.5, shape),
  }[kind]()
  return shared + own


def _assert_rate(looks):
  rate = np.mean(looks < LOOKS)
  assert rate <= ERROR + 3 * np.sqrt(ERROR * (1 - ERROR) / len(looks)), rate
  return rate


@pytest.mark.parametrize('rivals', [1, 3])
@pytest.mark.parametrize(
  'kind', ['answers', 'student', 'exponential', 'log_normal']
)
def test_equals_are_stopped_no_more_often_than_stated(kind, rivals):
  rng = np.random.default_rng(0)
  shape = (RUNS, 1 + rivals, 1, len(TASK))
  skill = np.zeros(1 + rivals)
  made = (
    _answers(rng, skill, shape)
    if kind == 'answers'
    else _tails(kind, rng, shape)
  )
  _assert_rate(_blocks(made[:, 0], made[:, 1:]))


def test_skewed_differences_keep_to_the_rate():
  """All items but a few lose a little; exponential gains make up for it."""
  rng = np.random.default_rng(1)
  gap = rng.exponential(1, (RUNS, 1, len(TASK))) - 1
  rate = _assert_rate(_blocks(gap, np.zeros((RUNS, 1, *gap.shape[1:]))))
  assert rate > 0.002  # it is no test that stops nobody


def test_a_heavier_skew_is_stopped_more_often_than_stated():
  """What the module says does not hold: a log-normal, and not by much."""
  rng = np.random.default_rng(6)
  gap = rng.lognormal(0, 1, (RUNS, 1, len(TASK))) - np.exp(0.5)
  looks = _blocks(gap, np.zeros((RUNS, 1, *gap.shape[1:])))
  assert ERROR < np.mean(looks < LOOKS) < 2.5 * ERROR


def test_equal_on_the_whole_rung_though_the_rival_was_chosen_by_it():
  """A rival that won on these very items: blocks are drawn, not the items."""
  rng = np.random.default_rng(2)
  models = _answers(rng, np.zeros(40), (1, 40, 1, len(TASK)))[0, :, 0]
  value = [np.bincount(TASK, row)[:3] / 32 @ WEIGHTS[0] for row in models]
  rival, mine = models[np.argmax(value)], models[np.argmin(value)].copy()
  assert max(value) - min(value) > 0.1
  for t in range(3):  # level, answer for answer, task by task
    at = np.flatnonzero(TASK == t)
    lost = at[(mine[at] == 0) & (rival[at] == 1)]
    won = at[(mine[at] == 1) & (rival[at] == 0)]
    extra = len(lost) - len(won)
    mine[lost[: max(extra, 0)]] = 1
    mine[won[: max(-extra, 0)]] = 0
    assert mine[at].sum() == rival[at].sum()
  order = np.concatenate(
    [
      rng.permuted(np.tile(np.flatnonzero(TASK == t), (RUNS, 1)), axis=1)
      for t in range(3)
    ],
    1,
  )
  _assert_rate(_blocks(mine[order][:, None], rival[order][:, None, None]))


def test_items_of_lower_rungs_keep_to_the_rate_and_help():
  rng = np.random.default_rng(3)
  lower = 48

  def race(skill):
    made = _answers(rng, skill, (RUNS, 2, 1, lower + len(TASK)))
    task = np.tile(np.arange(3), lower // 3)
    below = jax.vmap(lambda a, b: racing.pairs(a, b, task, 3))(
      jnp.asarray(made[:, 0, :, :lower]), jnp.asarray(made[:, 1:, :, :lower])
    )
    new = made[..., lower:]
    alone = _blocks(new[:, 0], new[:, 1:])
    return alone, _blocks(new[:, 0], new[:, 1:], below=below)

  _assert_rate(race([0.0, 0.0])[1])
  alone, helped = race([-1.5, 0.0])
  assert helped.mean() < alone.mean() - 0.3


def test_the_worse_are_stopped_the_earlier_the_worse_they_are():
  """Blocks scored, of 4, by how much the accuracy is lower."""
  rng = np.random.default_rng(4)
  blocks, lower = [], []
  for skill in (0.0, -1.0, -2.0, -4.0):
    made = _answers(rng, [skill, 0.0], (RUNS, 2, 1, len(TASK)))
    blocks.append(_blocks(made[:, 0], made[:, 1:]).mean())
    lower.append(made[:, 1].mean() - made[:, 0].mean())
  assert lower[1] < 0.2 < lower[2] < 0.35 < lower[3]
  assert blocks[0] > 3.9 > blocks[1] > 3.4 > blocks[2] > 2.0 > blocks[3]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _stopped(looks, error, mine, theirs, task, weights):
  race = racing.race(looks, error, ['log_likelihood'])
  found = racing.pairs(mine, theirs, task, weights.shape[-1])
  return racing.stopped(race, found, weights, jnp.ones(len(theirs), bool))


@given(st.integers(0, 2**31), st.sampled_from([1, 7, 96]))
@settings(max_examples=25, deadline=None)
def test_who_equals_its_rivals_is_never_stopped(seed, looks):
  rng = np.random.default_rng(seed)
  mine = np.float32(rng.normal(size=(1, len(TASK))))
  theirs = mine + np.float32(rng.uniform(0, 0.9e-4, (2, 1, len(TASK))))
  assert not _stopped(looks + 1, 0.49, mine, theirs, TASK, WEIGHTS)


def test_nobody_is_stopped_by_few_items_or_by_one():
  race = racing.race(LOOKS, ERROR, ['log_likelihood'])

  @jax.jit
  def stopped_at(mine):
    found = racing.pairs(mine, jnp.zeros((1, 1, 501)), jnp.zeros(501, int), 1)
    one = jnp.ones((1, 1))
    return racing.stopped(race, found, one, jnp.ones(1, bool))

  def stopped(gap):
    mine = np.full((1, 501), np.nan, np.float32)
    mine[0, : len(gap)] = gap
    return bool(stopped_at(mine))

  assert not stopped([-9.0] * 7) and stopped([-9.0] * 8)
  assert not stopped([-1e6] + [0.0] * 500)
  assert not stopped([-1e6] * 5 + [-0.1] * 5)
  assert not stopped([]) and not stopped([0.0] * 50)


def test_without_an_item_of_a_task_that_counts_nobody_is_stopped():
  mine, theirs = np.zeros((1, 40)), np.ones((1, 1, 40))
  race = racing.race(2, ERROR, ['accuracy'])
  one = np.ones(1, bool)
  found = racing.pairs(mine, theirs, np.zeros(40, int), 2)
  assert not racing.stopped(race, found, np.asarray([[0.5, 0.5]]), one)
  assert racing.stopped(race, found, np.asarray([[1.0, 0.0]]), one)
  assert not racing.stopped(race, found, np.asarray([[1.0, 0.0]]), ~one)


def test_who_is_better_in_one_objective_is_never_stopped():
  """Far behind in two tasks, ahead in the third: on the front."""
  rng = np.random.default_rng(5)
  values = _answers(rng, [-8.0, 0.0], (200, 2, 1, len(TASK)))
  values[:, 0, :, TASK == 2] = 1.0
  nats = 3.0 * values - 4.0
  metrics = ('accuracy', 'log_likelihood', 'accuracy')
  both = np.concatenate([values, nats, values], 2)
  weights = np.eye(3, dtype=np.float32)
  assert (_blocks(both[:, 0], both[:, 1:], metrics, weights) == LOOKS).all()
  two = _blocks(both[:, 0, :2], both[:, 1:, :2], metrics[:2], weights[:2])
  assert (two < LOOKS).mean() > 0.8
  # Behind one rival here and another there is behind neither.
  split = np.stack([both[:, 1], both[:, 1]], 1)
  split[:, 0, 0], split[:, 1, 1] = -9.0, -9.0
  looks = _blocks(both[:, 0, :2], split[:, :, :2], metrics[:2], weights[:2])
  assert (looks == LOOKS).all()


def test_values_are_those_of_each_objective_on_device_and_host():
  scores = Scores(np.asarray([1.0, 0.0]), np.asarray([-0.1, -2.0]))
  found = racing.values(scores, ['log_likelihood', 'accuracy'])
  np.testing.assert_array_equal(found, np.float32([[-0.1, -2.0], [1.0, 0.0]]))


def test_what_the_host_judges_cannot_race():
  items = tiny_items.classified(('a',), ('x',), [(1,)], [0], [0])
  assert racing.possible(items) is None
  for kind in ('generation', 'external'):
    task = types.SimpleNamespace(name='sums', kind=kind)
    told = racing.possible(
      items.__class__(**{**items.__dict__, 'definitions': (task,)})
    )
    assert told is not None and "'sums'" in told and kind in told


@pytest.mark.parametrize(
  ('given_', 'words'),
  [
    ((1, 0.05, ['accuracy']), 'looks=1'),
    ((4, 0.0, ['accuracy']), 'error rate 0.0'),
    ((4, 0.5, ['accuracy']), 'error rate 0.5'),
    ((4, 0.05, []), 'metrics'),
    ((4, 0.05, ['f1']), "metrics \\['f1'\\]"),
  ],
)
def test_a_race_that_cannot_be_is_refused(given_, words):
  with pytest.raises(ValueError, match=words):
    racing.race(*given_)
