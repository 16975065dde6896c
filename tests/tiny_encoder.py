"""A small random BERT folder with the real tokenizer, for tests."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from automerge_jax.io import assets, safetensors
from automerge_jax.models import bert

CONFIG = {
  'model_type': 'bert',
  'vocab_size': 30522,
  'hidden_size': 16,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 32,
  'max_position_embeddings': 64,
  'type_vocab_size': 2,
  'layer_norm_eps': 1e-12,
}


def write(
  folder: pathlib.Path,
  seed: int = 0,
  config: Mapping[str, Any] = CONFIG,
  tokenizer: str | None = None,
) -> pathlib.Path:
  """Writes the folder; tensors are drawn about as BERT initialises them.

  Args:
    folder: to be made.
    seed: of the draw.
    config: Hugging Face config; its positions must be 64.
    tokenizer: content of `tokenizer.json`; None takes MiniLM's.
  """
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(config))
  if tokenizer is None:
    tokenizer = (assets.fetch('minilm') / 'tokenizer.json').read_text()
  (folder / 'tokenizer.json').write_text(tokenizer)
  rng = np.random.default_rng(seed)
  d, mlp = config['hidden_size'], config['intermediate_size']
  tensors = {'embeddings.position_ids': np.arange(64, dtype=np.int64)[None]}
  for key in bert.family(bert.config_from_hf(config)).keys:
    shape = {
      'stem/word/embedding': (config['vocab_size'], d),
      'stem/position/embedding': (64, d),
      'stem/segment/embedding': (2, d),
      'layers/mlp_input/kernel': (mlp, d),
      'layers/mlp_output/kernel': (d, mlp),
      'layers/mlp_input/bias': (mlp,),
    }.get(key.path, (d, d) if key.path.endswith('kernel') else (d,))
    value = rng.normal(0.0, 0.3, shape).astype(np.float32)
    tensors[key.stored] = value + np.float32(key.path.endswith('scale'))
  safetensors.write(folder, tensors)
  return folder
