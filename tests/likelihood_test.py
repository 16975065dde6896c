"""Packed likelihoods against one plain forward pass a request."""

import itertools

import jax
import numpy as np
import pytest

from automerge_jax.models import base
from automerge_jax.tasks import likelihood, packing
from tests import tiny_decoder

FAMILY, PARAMS = tiny_decoder.model()


@pytest.fixture(scope='module')
def requests():
  return list(itertools.chain(*tiny_decoder.questions()))


@pytest.fixture(scope='module')
def plain(requests):
  """Each request alone in its row, the vocabulary head at every token."""

  @jax.jit
  def logits(params, ids, mask):
    hidden = base.forward(FAMILY, params, {'ids': ids, 'mask': mask})
    return jax.nn.log_softmax(FAMILY.logits(params, hidden))

  width = max(len(r.context) + len(r.continuation) for r in requests)
  sums, greedy = [], []
  for context, continuation in requests:
    text = np.array([*context, *continuation])
    ids = np.pad(text, (0, width - len(text)))[None]
    mask = (np.arange(width) < len(text)).astype(np.int32)[None]
    table = np.asarray(logits(PARAMS, ids, mask))[0]
    places = np.arange(len(context) - 1, len(text) - 1)
    scored = table[places, text[places + 1]]
    sums.append(scored.sum(dtype=np.float64))
    greedy.append((table[places].argmax(-1) == text[places + 1]).all())
  return np.array(sums), np.array(greedy)


def test_packed_scores_are_those_of_plain_forwards(requests, plain):
  sums, greedy = likelihood.log_likelihoods(FAMILY, PARAMS, requests)
  np.testing.assert_allclose(sums, plain[0], atol=1e-4)
  np.testing.assert_array_equal(greedy, plain[1])
