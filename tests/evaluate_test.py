"""Scoring a population in one call, and each merged model alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.io import safetensors
from automerge_jax.merging import registry, resident
from automerge_jax.models import registry as families
from automerge_jax.search import evaluate, racing, sanity
from automerge_jax.spaces import cells, fusion
from automerge_jax.tasks import classification, experts, itemset, kinds
from automerge_jax.types import ItemScores
from tests import tiny_items, tiny_suite

TASKS = tiny_suite.TASKS
P = 4
ACTIVE = jnp.asarray([True, False, True, True])


def _items(n, seed, least=3, most=30):
  """Items of several length buckets, tasks mixed."""
  rng = np.random.default_rng(seed)
  tokens = [
    tuple(rng.integers(2, 30, rng.integers(least, most))) for _ in range(n)
  ]
  task = rng.integers(0, len(TASKS), n).astype(np.int32)
  label = np.asarray(
    [rng.integers(len(tiny_suite.CUES[TASKS[t]])) for t in task]
  )
  ids = tuple(f'{seed}-{i}' for i in range(n))
  return tiny_items.classified(TASKS, ids, tokens, task, label)


@pytest.fixture(scope='module')
def parts(tiny):
  """Family, method, space, stack, heads."""
  family = families.load(tiny / 'base').family
  method = registry.get('task_arithmetic')
  space = fusion.space(method, cells.layered(family), TASKS, 'base')
  folders = [tiny / 'experts' / task for task in TASKS]
  stack = resident.build(
    method,
    family,
    safetensors.read(tiny / 'base'),
    [safetensors.read(folder) for folder in folders],
  )
  found = [experts.read_head(folder) for folder in folders]
  heads = classification.stack_heads([(h.kernel, h.bias) for h in found])
  return family, method, space, stack, jax.tree.map(jnp.asarray, heads)


@pytest.fixture(scope='module')
def gate(tiny, parts):
  family, _, _, stack, _ = parts
  inputs = sanity.lines(tiny / 'base', family)
  parents = [
    sanity.vitals(family, jax.tree.map(np.add, stack.base, delta), inputs)
    for delta in (
      jax.tree.map(lambda leaf, k=k: leaf[k], stack.stack)
      for k in range(len(TASKS))
    )
  ]
  return sanity.Gate(inputs, sanity.limits(parents))


def _population(space, seed=0):
  x = np.random.default_rng(seed).uniform(size=(P, len(space.names)))
  return jax.vmap(space.quantise)(jnp.asarray(x, jnp.float32))


def _scorer(parts, rungs=1, batch_size=None, race=None):
  family, method, space, _, _ = parts
  return evaluate.population_scorer(
    family, method, space.decode, rungs, batch_size, race=race
  )


RACE = racing.race(4, 0.05, ['log_likelihood'])


def _rivals(items, level, below=None, counts=True):
  """One rival that says `level` to all items, and as many from before.

  Args:
    items: of the rung.
    level: log-likelihood.
    below: by how much each candidate is ahead on 30 items before, [P].
    counts: whether there is a rival.
  """
  count = 0 if below is None else 30
  before = np.zeros((P, 1, count)) if below is None else np.asarray(below)
  before = np.broadcast_to(np.reshape(before, (P, 1, -1)), (P, 1, count))
  return racing.Rivals(
    jnp.full((1, 1, len(items)), level),
    jnp.asarray([counts]),
    jnp.full((1, len(TASKS)), 1 / len(TASKS)),
    jnp.asarray(items.task),
    racing.population_pairs(
      jnp.asarray(before),
      jnp.zeros((1, 1, count)),
      jnp.arange(count) % len(TASKS),
      len(TASKS),
    ),
  )


def _blocks_of(items, blocks):
  """The block that each item is in, [n]."""
  found = np.full(len(items) + 1, -1)
  for part in blocks:
    for look, slots in enumerate(np.asarray(part.slot)):
      found[slots.ravel()] = look
  return found[:-1]


@pytest.mark.parametrize('batch_size', [None, 2])
def test_each_candidate_scores_like_its_merged_model_alone(
  parts, gate, batch_size
):
  family, method, space, stack, heads = parts
  items = _items(40, 0)
  data = kinds.arrays(items, tokens_per_chunk=128)
  assert len(data) == 4 and data[-1].task.shape[0] > 1
  c = _population(space)
  scores, _ = _scorer(parts, 1, batch_size)(
    c, ACTIVE, stack, heads, gate, data, 40
  )
  assert scores.score.shape == scores.log_likelihood.shape == (P, 40)
  alone = evaluate.scorer(family)
  merge = jax.jit(lambda plan, stack: resident.merge(method, plan, stack))
  for i in range(P):
    if not ACTIVE[i]:
      assert np.isnan(scores.log_likelihood[i]).all()
      assert np.isnan(scores.score[i]).all()
      continue
    want = alone(merge(space.decode(c[i]), stack), heads, data, 40)
    np.testing.assert_allclose(
      scores.log_likelihood[i], want.log_likelihood, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(scores.score[i], want.score)
  live = np.asarray(scores.log_likelihood)[np.asarray(ACTIVE)]
  assert (live < 0).all() and len({row.tobytes() for row in live}) == 3


def test_scores_stand_at_their_items_however_they_are_chunked(parts):
  """One item at a time, in another order, gives each item the same score."""
  family, _, _, stack, heads = parts
  items = _items(12, 1)
  run = evaluate.scorer(family)
  params = stack.base
  want = run(params, heads, kinds.arrays(items), 12)
  small = run(params, heads, kinds.arrays(items, 64), 12)
  np.testing.assert_allclose(
    small.log_likelihood, want.log_likelihood, rtol=1e-5, atol=1e-5
  )
  order = np.random.default_rng(0).permutation(12)
  mixed = run(params, heads, kinds.arrays(itemset.subset(items, order)), 12)
  np.testing.assert_allclose(
    mixed.log_likelihood, want.log_likelihood[order], rtol=1e-5, atol=1e-5
  )


def test_one_trace_a_rung_and_no_more(parts, gate):
  _, _, space, stack, heads = parts
  run = _scorer(parts, rungs=2)
  rungs = [(kinds.arrays(_items(n, n)), n) for n in (10, 24)]
  for seed in range(5):
    for data, n in rungs:
      for active in (ACTIVE, ~ACTIVE, jnp.zeros(P, bool)):
        run(_population(space, seed), active, stack, heads, gate, data, n)
  assert run._cache_size() == 2
  other = kinds.arrays(_items(17, 17))
  with pytest.raises(RuntimeError, match='2 item sets was traced 3 times'):
    run(_population(space), ACTIVE, stack, heads, gate, other, 17)


def test_a_model_that_overflows_is_a_failure(parts):
  family, _, _, stack, heads = parts
  params = jax.tree.map(lambda leaf: leaf * 1e30, stack.base)
  items = _items(6, 3)
  scores = evaluate.scorer(family)(params, heads, kinds.arrays(items), 6)
  found = evaluate.finish(items, jax.device_get(scores))
  assert found.failure == 'log-likelihood is not finite'
  assert found.score is None


def test_what_does_not_pass_the_gate_is_not_scored(parts, gate):
  """A stricter gate stops the candidates whose hidden states are largest."""
  _, _, space, stack, heads = parts
  data, c = kinds.arrays(_items(6, 3)), _population(space)
  scores, vitals = _scorer(parts)(c, ACTIVE, stack, heads, gate, data, 6)
  rms = np.asarray(vitals.rms)
  limit = np.sort(rms[np.asarray(ACTIVE)])[1]
  strict = gate._replace(limits=gate.limits._replace(rms=jnp.float32(limit)))
  again, _ = _scorer(parts)(c, ACTIVE, stack, heads, strict, data, 6)
  kept = np.isfinite(np.asarray(again.score)).all(-1)
  assert kept.tolist() == (np.asarray(ACTIVE) & (rms <= limit)).tolist()
  np.testing.assert_array_equal(again.score[kept], scores.score[kept])


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_stays_near(parts, dtype):
  family, _, _, stack, heads = parts
  items = _items(40, 5)
  data = kinds.arrays(items)
  exact = evaluate.scorer(family)(stack.base, heads, data, 40)
  half = evaluate.scorer(family, dtype)(stack.base, heads, data, 40)
  far = np.abs(np.asarray(half.log_likelihood - exact.log_likelihood))
  assert 0 < far.max() < {'bfloat16': 0.3, 'float16': 0.05}[dtype]


def test_blocks_hold_every_item_once_and_all_tasks_alike():
  items = _items(90, 6)
  blocks = kinds.blocks(items, 4, 64)
  slots = np.concatenate([np.asarray(part.slot).ravel() for part in blocks])
  assert sorted(slots[slots < 90]) == list(range(90))
  assert all(part.slot.shape[0] == 4 for part in blocks)
  assert any(part.slot.shape[1] > 1 for part in blocks)  # several chunks
  order = np.argsort(items.task, kind='stable')  # as in the rungs of a search
  items = itemset.subset(items, order)
  block = _blocks_of(items, kinds.blocks(items, 4))
  share = [np.bincount(items.task[block == k], minlength=3) for k in range(4)]
  assert np.ptp(share, axis=0).max() <= 4  # one for each bucket of lengths


@pytest.mark.parametrize('batch_size', [None, 2])
def test_a_race_leaves_out_items_and_changes_no_score(parts, gate, batch_size):
  """Far ahead before, none before, far behind before."""
  _, _, space, stack, heads = parts
  items, c = _items(40, 0), _population(space)
  plain, _ = _scorer(parts)(
    c, ACTIVE, stack, heads, gate, kinds.arrays(items), 40
  )
  blocks = kinds.blocks(items, 4)
  block = _blocks_of(items, blocks)
  run = _scorer(parts, 1, batch_size, RACE)
  args = c, ACTIVE, stack, heads, gate, blocks, 40
  alone = _rivals(items, 0.0, counts=False)
  scores, vitals, reached = run(*args, alone)
  assert (np.asarray(reached) == np.asarray(ACTIVE)[:, None]).all()
  assert np.isfinite(vitals.rms[ACTIVE]).all()
  np.testing.assert_array_equal(scores.score, plain.score)
  np.testing.assert_allclose(
    scores.log_likelihood, plain.log_likelihood, rtol=1e-5, atol=1e-6
  )

  rivals = _rivals(items, 0.0, [100.0, 0.0, 0.0, -100.0])
  raced, _, reached = run(*args, rivals)
  reached = np.asarray(reached)
  looks = [block[row].max(initial=-1) + 1 for row in reached]
  assert looks[0] == 4 and looks[1] == 0 and looks[3] == 1
  assert 1 <= looks[2] < 4
  for i, look in enumerate(looks):
    assert (reached[i] == (block < look)).all()
  for name in ('score', 'log_likelihood'):
    found = np.asarray(getattr(raced, name))
    assert (np.isnan(found) == ~reached).all()
    whole = np.asarray(getattr(scores, name))
    np.testing.assert_array_equal(found[reached], whole[reached])


def test_the_stopped_cost_no_more_passes(parts, gate):
  family, method, space, stack, heads = parts
  passes = []

  def embed(params, inputs):
    jax.debug.callback(lambda: passes.append(1))
    return family.embed(params, inputs)

  counted = dataclasses.replace(family, embed=embed)
  run = evaluate.population_scorer(counted, method, space.decode, 1, race=RACE)
  items = _items(40, 0, 8, 9)
  blocks = kinds.blocks(items, 4)
  each = sum(part.slot.shape[1] for part in blocks)  # passes a block
  block = _blocks_of(items, blocks)
  args = _population(space), ACTIVE, stack, heads, gate, blocks, 40
  for rivals in (
    _rivals(items, 0.0, [-100.0] * P),
    _rivals(items, 0.0, [100.0, 0.0, 0.0, -100.0]),
    _rivals(items, 0.0, counts=False),
  ):
    passes.clear()
    _, _, reached = jax.block_until_ready(run(*args, rivals))
    jax.effects_barrier()
    looks = [block[row].max(initial=-1) + 1 for row in np.asarray(reached)]
    assert len(passes) == ACTIVE.sum() + each * sum(looks)
  assert sum(looks) == 4 * ACTIVE.sum()


def test_a_race_runs_without_jit_too(parts):
  family, _, _, stack, heads = parts
  items, race = _items(8, 8, 8, 9), RACE._replace(looks=2)
  blocks = kinds.blocks(items, 2)
  model = family, stack.base
  behind = _rivals(items, 0.0, [-9.0] * P)
  below = jax.tree.map(lambda leaf: leaf[0], behind.below)
  mine = behind._replace(below=below)

  def run(blocks, rivals):
    return evaluate.raced(lambda part: model, heads, blocks, 8, race, rivals)

  want, reached = jax.jit(run)(blocks, mine)
  with jax.disable_jit():
    found, also = run(blocks, mine)
  assert 0 < reached.sum() < 8
  np.testing.assert_array_equal(also, reached)
  np.testing.assert_allclose(
    found.log_likelihood, want.log_likelihood, rtol=1e-5, atol=1e-5
  )


def test_one_trace_a_rung_whoever_the_rivals_are(parts, gate):
  _, _, space, stack, heads = parts
  run = _scorer(parts, rungs=2, race=RACE)
  sets = [_items(n, n, 8, 9) for n in (16, 24)]
  rungs = [(items, kinds.blocks(items, 4)) for items in sets]
  for seed in range(2):
    for items, blocks in rungs:
      for rivals in (
        _rivals(items, -1.0 - seed, [float(seed)] * P),
        _rivals(items, 0.0, counts=False),
      ):
        args = _population(space, seed), ACTIVE, stack, heads, gate, blocks
        run(*args, len(items), rivals)
  assert run._cache_size() == 2
  items = _items(12, 12, 8, 9)
  with pytest.raises(RuntimeError, match='2 item sets was traced 3 times'):
    run(*args[:5], kinds.blocks(items, 4), 12, _rivals(items, 0.0))


def test_a_race_needs_rivals_and_its_blocks(parts, gate):
  _, _, space, stack, heads = parts
  items = _items(12, 12, 8, 9)
  args = _population(space), ACTIVE, stack, heads, gate
  with pytest.raises(ValueError, match='if and only if'):
    _scorer(parts, race=RACE)(*args, kinds.blocks(items, 4), 12)
  with pytest.raises(ValueError, match='if and only if'):
    _scorer(parts)(*args, kinds.arrays(items), 12, _rivals(items, 0.0))
  with pytest.raises(ValueError, match=r'in \[3\] blocks, its looks are 4'):
    _scorer(parts, race=RACE)(
      *args, kinds.blocks(items, 3), 12, _rivals(items, 0.0)
    )
  with pytest.raises(AssertionError):
    _scorer(parts, race=RACE)(
      *args, kinds.blocks(items, 4), 12, _rivals(_items(11, 0), 0.0)
    )


def test_items_not_reached_are_kept_as_such_and_are_no_failure():
  items = _items(5, 0)
  reached = np.asarray([True, True, False, True, False])
  nan = np.float32('nan')
  nats = np.where(reached, np.float32(-0.5), nan)
  right = np.where(reached, np.float32(1), nan)
  kept = evaluate.finish(items, ItemScores(right, nats), reached)
  assert kept.failure is None and kept.stopped
  np.testing.assert_array_equal(kept.score, right)
  np.testing.assert_array_equal(kept.log_likelihood, nats)
  for bad in (nan, -np.inf):
    broken = nats.copy()
    broken[1] = bad
    found = evaluate.finish(items, ItemScores(right, broken), reached)
    assert found.failure == 'log-likelihood is not finite'
  found = evaluate.finish(items, ItemScores(right, nats))
  assert found.failure == 'log-likelihood is not finite'
  whole = evaluate.finish(items, ItemScores(np.ones(5), np.zeros(5)))
  assert not whole.stopped
