"""The real MiniLM: hidden states against torch, on text of several lengths."""

import jax
import numpy as np
import pytest
import tokenizers

from automerge_jax.io import assets
from automerge_jax.models import base, registry

pytestmark = pytest.mark.oracle

TEXTS = [
  'A film that is neither as clever nor as moving as it thinks it is.',
  'Good.',
  'Shares of the mining group rose 3.5 pct on Tuesday, after the board said '
  'that it would pay a dividend of 12 cts a share against nine a year ago.',
  'Naïve café owners — 東京 — über alles!? #voting @someone',
]


def test_minilm_hidden_states_match_torch(ask_peer):
  folder = assets.fetch('minilm')
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  tokenizer.enable_padding()
  coded = tokenizer.encode_batch(TEXTS)
  inputs = {
    'ids': np.array([text.ids for text in coded]),
    'mask': np.array([text.attention_mask for text in coded]),
  }
  assert 0 < inputs['mask'].mean() < 1
  theirs = ask_peer('oracle/bert_peer.py', folder, **inputs)['hidden']
  model = registry.load(folder)
  ours = jax.jit(lambda p, x: base.forward(model.family, p, x))(
    model.params, inputs
  )
  real = inputs['mask'] > 0
  np.testing.assert_allclose(ours[real], theirs[real], atol=1e-5)
  # At padding, which nothing reads, torch differs by 3e-5 from itself in
  # float64; real tokens do so by 2e-6.
  np.testing.assert_allclose(ours[~real], theirs[~real], atol=1e-4)
