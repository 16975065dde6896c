"""Our reading of GGUF files against that of transformers, live."""

import json

import numpy as np
import pytest

from automerge_jax.io import assets, checkpoints, gguf, tokenizers
from tests import tiny_gguf

pytestmark = pytest.mark.oracle

TEXTS = [
  'The capital of France is Paris.',
  'Grüße 2024!  two  spaces\n\tand\ttabs 世界 🙂',
  "I'm sure they'll say 3.14159 isn't 22/7; x_1 = a[i]++",
  '<|im_start|>user\nhello<|im_end|>\n',
]


def _compare(ask_peer, path, out, shard, texts=()):
  gguf.to_hugging_face(path, out / 'ours', shard)
  peer = ask_peer(
    'oracle/gguf_peer.py', path, json.dumps(list(texts)), out / 'ours'
  )
  with checkpoints.open_checkpoint(out / 'ours') as checkpoint:
    names = {key[7:] for key in peer if key.startswith('tensor/')}
    assert set(checkpoint.names()) == names
    for name in names:
      want = peer[f'tensor/{name}']
      np.testing.assert_array_equal(
        checkpoint.get(name).astype(np.float32), want, name
      )
  np.testing.assert_array_equal(peer['logits_ours'], peer['logits'])
  if texts:
    tokenizer = tokenizers.load(out / 'ours')
    have = [tokenizer.encode(text).ids for text in texts]
    assert have == json.loads(peer['ids'].tobytes())


def test_smollm2(ask_peer, tmp_path):
  path = assets.fetch('smollm2') / 'model.gguf'
  _compare(ask_peer, path, tmp_path, '200MB', TEXTS)


@pytest.mark.parametrize('architecture', ['llama', 'qwen2', 'qwen3'])
@pytest.mark.parametrize('kind', ['F16', 'Q8_0'])
def test_architectures(ask_peer, tmp_path, architecture, kind):
  path = tmp_path / 'x.gguf'
  tiny_gguf.write(path, architecture, tied=kind == 'F16', kind=kind)
  _compare(ask_peer, path, tmp_path, '60KB')
