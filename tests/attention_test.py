"""Attention: the mask rule by its words, grouped heads, and memory."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.models import attention

DRAW = np.random.default_rng(0)


def _places(tokens):
  shape = (2, tokens)
  return attention.Places(
    positions=DRAW.integers(0, 9, shape).astype(np.int32),
    mask=DRAW.integers(0, 3, shape).astype(np.int32),
    branch=DRAW.integers(0, 3, shape).astype(np.int32),
  )


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('window', [None, 3])
def test_mask_rule_is_what_it_says(causal, window):
  query, key = _places(11), _places(13)
  have = np.asarray(attention.sees(query, key, causal, window))
  assert have.shape == (2, 11, 13)
  assert have.any()
  for row, i, j in itertools.product(range(2), range(11), range(13)):
    position, mask, branch = (int(x[row, i]) for x in query)
    k_position, k_mask, k_branch = (int(x[row, j]) for x in key)
    want = k_mask > 0 and (mask == 0 or k_mask == mask)
    want = want and k_branch in (0, branch)
    want = want and (not causal or k_position <= position)
    want = want and (window is None or position - k_position < window)
    assert have[row, i, j] == want, (row, i, j)


def test_defaults_of_places():
  mask = np.array([[1, 1, 0], [1, 1, 1]])
  places = attention.places({'decoder_mask': mask}, 'decoder_')
  np.testing.assert_array_equal(places.positions, [[0, 1, 2]] * 2)
  np.testing.assert_array_equal(places.mask, mask)
  np.testing.assert_array_equal(places.branch, np.zeros((2, 3)))
  given = attention.places({'mask': mask, 'positions': mask, 'branch': mask})
  np.testing.assert_array_equal(given.positions, mask)
  np.testing.assert_array_equal(given.branch, mask)


@pytest.mark.parametrize('cap', [None, 0.7])
@pytest.mark.parametrize('biased', [False, True])
def test_grouped_heads_equal_repeated_ones(cap, biased):
  query = DRAW.normal(size=(2, 6, 5, 4)).astype(np.float32)
  key, value = DRAW.normal(size=(2, 2, 2, 7, 4)).astype(np.float32)
  seen = DRAW.random((2, 5, 7)) < 0.6
  seen[:, :, 0] = True
  bias = DRAW.normal(size=(1, 6, 5, 7)).astype(np.float32) if biased else None
  scores = np.einsum('bhtd,bhsd->bhts', query, np.repeat(key, 3, 1)) * 0.3
  if cap is not None:
    scores = cap * np.tanh(scores / cap)
  scores = scores + (bias if biased else 0)
  weights = np.where(seen[:, None], np.exp(scores), 0)
  weights /= weights.sum(-1, keepdims=True)
  want = np.einsum('bhts,bhsd->bhtd', weights, np.repeat(value, 3, 1))
  have = attention.attend(query, key, value, seen, 0.3, cap, bias)
  np.testing.assert_allclose(have, want, atol=1e-6)


def test_heads_split_and_join():
  x = DRAW.normal(size=(2, 3, 8))
  split = attention.split_heads(jnp.asarray(x), 4)
  assert split.shape == (2, 4, 3, 2)
  np.testing.assert_array_equal(split[1, 2, 0], np.float32(x[1, 0, 4:6]))
  np.testing.assert_array_equal(attention.join_heads(split), np.float32(x))


def test_memory_takes_tokens_where_it_is_told():
  memory = attention.empty(1, 2, 3, 5, 4, jnp.float16)
  assert memory['layers']['key'].shape == (1, 2, 3, 5, 4)
  slot = jnp.array([[4, 0, -1], [2, 5, 1]])  # -1 and 5 are no slots
  new = attention.Places(
    positions=jnp.array([[7, 8, 9], [1, 2, 3]]),
    mask=jnp.array([[1, 1, 1], [1, 1, 2]]),
    branch=jnp.array([[0, 2, 0], [0, 0, 1]]),
  )
  metadata = attention.occupy(memory, slot, new)
  np.testing.assert_array_equal(
    metadata['positions'], [[8, 0, 0, 0, 7], [0, 3, 1, 0, 0]]
  )
  np.testing.assert_array_equal(
    metadata['mask'], [[1, 0, 0, 0, 1], [0, 2, 1, 0, 0]]
  )
  np.testing.assert_array_equal(
    metadata['branch'], [[2, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
  )
  held = attention.held(metadata)
  np.testing.assert_array_equal(held.positions, metadata['positions'])
  np.testing.assert_array_equal(held.mask, metadata['mask'])
  layer = {name: leaf[0] for name, leaf in memory['layers'].items()}
  key, value = DRAW.normal(size=(2, 2, 3, 3, 4)).astype(np.float32)
  layer = attention.write(layer, slot, key, value)
  for name, given in (('key', key), ('value', value)):
    want = np.zeros((2, 3, 5, 4), np.float16)
    for row, column, place in ((0, 0, 4), (0, 1, 0), (1, 0, 2), (1, 2, 1)):
      want[row, :, place] = given[row, :, column]
    np.testing.assert_array_equal(layer[name], want)
    assert layer[name].dtype == jnp.float16
