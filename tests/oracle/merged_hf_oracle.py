"""An exported merge loads in transformers and gives our hidden states."""

import jax
import numpy as np
import pytest

from automerge_jax.io import orbax, tokenizers
from automerge_jax.merging import export
from automerge_jax.models import base, registry
from automerge_jax.recipe import Recipe, Slice, Source
from tests import tiny_suite

pytestmark = pytest.mark.oracle

TEXTS = ['a dog and a cat', 'red', 'one of the nine is blue or not so grey']
REST = {'value': 0.4}


def test_transformers_gives_our_hidden_states(ask_peer, tiny, tmp_path):
  folders = {'base': tiny / 'base'}
  folders |= {task: tiny / 'experts' / task for task in tiny_suite.TASKS}
  sources = tuple(
    Source(
      task, {'weight': [{'filter': 'attention', 'value': w}, {'value': 0.4}]}
    )
    for task, w in zip(tiny_suite.TASKS, (0.2, 0.6, 0.9), strict=True)
  )
  recipe = Recipe('ties', (Slice(sources),), 'base', {'density': 0.4})
  export.export(recipe, folders, tmp_path / 'merged_hf')
  coded = tokenizers.encode(tokenizers.load(tmp_path / 'merged_hf'), TEXTS, 16)
  inputs = {
    'ids': np.zeros((len(TEXTS), 16), np.int64),
    'mask': np.zeros((len(TEXTS), 16), np.int64),
  }
  for row, ids in enumerate(coded):
    inputs['ids'][row, : len(ids)] = ids
    inputs['mask'][row, : len(ids)] = 1
  theirs = ask_peer('oracle/bert_peer.py', tmp_path / 'merged_hf', **inputs)
  model = registry.load(tmp_path / 'merged_hf')
  forward = jax.jit(lambda p, x: base.forward(model.family, p, x))
  ours = forward(model.params, inputs)
  real = inputs['mask'] > 0
  np.testing.assert_allclose(ours[real], theirs['hidden'][real], atol=1e-5)
  untouched = forward(registry.load(folders['base']).params, inputs)
  assert np.abs(untouched - ours)[real].max() > 0.01
  orbax.save(tmp_path / 'merged', model.params)
  again = forward(orbax.load(tmp_path / 'merged', model.params), inputs)
  np.testing.assert_array_equal(again, ours)
