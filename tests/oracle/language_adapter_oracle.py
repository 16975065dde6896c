"""Adapters as fine-tuning writes them: PEFT loads them, with our logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.models import adapted, base, registry
from automerge_jax.tasks import adapters, language_finetune
from tests import tiny_language

pytestmark = pytest.mark.oracle


def test_peft_gives_our_logits(ask_peer, tmp_path):
  folder = tiny_language.write(tmp_path / 'base')
  family, params = registry.load(folder)
  options = language_finetune.Options(rank=3, alpha=6.0)
  rng = np.random.default_rng(0)
  layers = jax.tree.map(lambda leaf: leaf[1:], params['layers'])
  adapter = jax.tree.map(
    lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float16),
    adapted.init_adapter(layers, 3, seed=0),
  )
  adapters.write_adapter(tmp_path / 'out', family, adapter, options)
  ids = rng.integers(3, 99, (3, 7))
  peer = ask_peer(
    'oracle/language_adapter_peer.py', folder, tmp_path / 'out', ids=ids
  )
  inputs = {'ids': ids.astype(np.int32), 'mask': np.ones((3, 7), np.int32)}
  hidden = adapted.lower(family, params, inputs, 1)
  outputs = adapted.upper(
    family,
    dict(params, layers=layers),
    inputs,
    hidden,
    1,
    jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), adapter),
    options.scale,
  )
  np.testing.assert_allclose(
    family.logits(params, outputs), peer['adapted'], atol=1e-4, rtol=1e-4
  )
  plain = family.logits(params, base.forward(family, params, inputs))
  np.testing.assert_allclose(plain, peer['base'], atol=1e-4, rtol=1e-4)
  assert np.abs(peer['adapted'] - peer['base']).max() > 0.1
