"""Buckets, pooling and heads against plain numpy."""

import itertools

import chex
import jax
import numpy as np
import pytest

from automerge_jax.tasks import classification
from automerge_jax.types import Items


def _tokens(sizes):
  return [list(range(1, n + 1)) for n in sizes]


def test_bucket_holds_each_item_once_at_its_length():
  sizes = [3, 16, 17, 5, 40, 32, 9]
  tokens, tasks, labels = _tokens(sizes), [0, 1, 0, 1, 1, 0, 0], range(7)
  buckets = classification.bucket(tokens, tasks, labels, (16, 32, 48, 64), 48)
  assert [b.inputs['ids'].shape for b in buckets] == [
    (2, 2, 16),
    (2, 1, 32),
    (1, 1, 48),
  ]
  seen = []
  for b in buckets:
    length = b.inputs['ids'].shape[-1]
    for c, i in np.ndindex(b.slot.shape):
      slot = b.slot[c, i]
      seen.append(slot)
      assert sizes[slot] <= length < sizes[slot] + 16
      ids, mask = b.inputs['ids'][c, i], b.inputs['mask'][c, i]
      np.testing.assert_array_equal(ids[: sizes[slot]], tokens[slot])
      np.testing.assert_array_equal(mask, np.arange(length) < sizes[slot])
      assert b.task[c, i] == tasks[slot]
      assert b.label[c, i] == labels[slot]
  assert sorted(seen) == list(range(7))


def test_bucket_padding_points_past_the_end():
  (items,) = classification.bucket(_tokens([4] * 5), [1] * 5, [1] * 5, (8,), 16)
  assert items.slot.shape == (3, 2)
  assert list(items.slot.ravel()) == [0, 1, 2, 3, 4, 5]
  assert items.task[2, 1] == 0
  assert items.label[2, 1] == 0
  np.testing.assert_array_equal(items.inputs['mask'][2, 1], [1] + [0] * 7)


def test_bucket_bounds_the_tokens_of_a_chunk():
  rng = np.random.default_rng(0)
  sizes = rng.integers(1, 65, 500)
  buckets = classification.bucket(_tokens(sizes), [0] * 500, [0] * 500)
  slots = np.concatenate([b.slot.ravel() for b in buckets])
  assert set(range(500)) <= set(slots.tolist()) <= set(range(501))
  for b in buckets:
    chunks, batch, length = b.inputs['ids'].shape
    assert (batch - 1) * length < 2048
    assert (b.slot == 500).sum() < chunks


@pytest.mark.parametrize('size', [0, 65])
def test_bucket_rejects_items_that_fit_nowhere(size):
  with pytest.raises(ValueError, match='expected 1 to 64'):
    classification.bucket(_tokens([4, size]), [0, 0], [0, 0], (16, 64))


@pytest.mark.parametrize('most', [1, 2, 4])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_best_lengths_pad_least(seed, most):
  sizes = np.random.default_rng(seed).integers(1, 12, 40)
  lengths = classification.best_lengths(sizes, most)

  def padded(lengths):
    return np.asarray(lengths)[np.searchsorted(lengths, sizes)].sum()

  every = [
    (*chosen, int(sizes.max()))
    for count in range(most)
    for chosen in itertools.combinations(range(1, int(sizes.max())), count)
  ]
  assert len(lengths) <= most and lengths[-1] == sizes.max()
  assert padded(lengths) == min(map(padded, every))


def test_pool_ignores_padding_and_scale():
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(3, 5, 8)).astype(np.float32)
  mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
  want = np.stack([h[m > 0].mean(0) for h, m in zip(hidden, mask, strict=True)])
  want /= np.sqrt((want**2).mean(-1, keepdims=True))
  got = classification.pool(hidden, mask)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  harmed = np.where(mask[..., None] > 0, 7 * hidden, 1e6).astype(np.float32)
  np.testing.assert_allclose(classification.pool(harmed, mask), want, rtol=1e-5)


def test_score_of_a_mixed_batch_is_each_tasks_own():
  rng = np.random.default_rng(1)
  heads = [
    (rng.normal(size=(8, c)).astype(np.float32), rng.normal(size=c))
    for c in (2, 5, 3)
  ]
  stacked = classification.stack_heads(heads)
  hidden = rng.normal(size=(12, 4, 8)).astype(np.float32)
  task = np.arange(12, dtype=np.int32) % 3
  label = np.array([i % len(heads[t][1]) for i, t in enumerate(task)], np.int32)
  items = Items(
    inputs={'ids': np.ones((12, 4)), 'mask': np.ones((12, 4), np.int32)},
    task=task,
    label=label,
    slot=np.arange(12),
  )
  scores = jax.jit(classification.score)(stacked, hidden, items)
  features = hidden.mean(1)
  features /= np.sqrt((features**2).mean(-1, keepdims=True))
  for i in range(12):
    kernel, bias = heads[task[i]]
    values = features[i] @ kernel + bias
    log_p = values - np.log(np.exp(values).sum())
    np.testing.assert_allclose(
      scores.log_likelihood[i], log_p[label[i]], rtol=1e-4, atol=1e-5
    )
    assert scores.score[i] == float(values.argmax() == label[i])
  chex.assert_tree_all_finite((scores.score, scores.log_likelihood))
