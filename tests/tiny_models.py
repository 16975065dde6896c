"""Tiny models of a Llama's shape as Hugging Face folders, and their recipes."""

import json

import numpy as np
import safetensors.numpy

from automerge_jax.io import checkpoints, sharded
from automerge_jax.io import safetensors as st_io

WIDTH, INNER = 8, 20
WORDS = ['<unk>', '<s>', '</s>', *'abcdefghi']
ROWS = len(WORDS)
CONFIG = {
  'architectures': ['LlamaForCausalLM'],
  'model_type': 'llama',
  'hidden_size': WIDTH,
  'intermediate_size': INNER,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'vocab_size': ROWS,
  'tie_word_embeddings': False,
  'torch_dtype': 'float32',
}


def base(seed=0, layers=2, rows=ROWS, head=True):
  """Random tensors by stored name."""
  shapes = {'model.embed_tokens.weight': (rows, WIDTH)}
  for i in range(layers):
    shapes |= {
      f'model.layers.{i}.self_attn.q_proj.weight': (WIDTH, WIDTH),
      f'model.layers.{i}.mlp.up_proj.weight': (INNER, WIDTH),
      f'model.layers.{i}.input_layernorm.weight': (WIDTH,),
    }
  shapes['model.norm.weight'] = (WIDTH,)
  if head:
    shapes['lm_head.weight'] = (rows, WIDTH)
  draw = np.random.default_rng(seed)
  return {
    name: draw.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def tuned(tensors, seed, size=0.1):
  """The tensors of a fine-tune: moved a little."""
  draw = np.random.default_rng(seed)
  return {
    name: (t + size * draw.normal(size=t.shape)).astype(t.dtype)
    if t.dtype.kind != 'i'
    else t
    for name, t in tensors.items()
  }


def tokenizer(words=WORDS):
  """A `tokenizer.json` of whole words."""
  vocabulary = {word: i for i, word in enumerate(words)}
  model = {'type': 'WordLevel', 'vocab': vocabulary, 'unk_token': words[0]}
  return json.dumps(
    {
      'version': '1.0',
      'model': model,
      'pre_tokenizer': {'type': 'WhitespaceSplit'},
      'added_tokens': [],
    }
  )


def write(folder, tensors, config=None, words=WORDS, shard=None):
  """A Hugging Face folder with config, generation config and tokenizer."""
  folder.mkdir(parents=True)
  if shard is None:
    st_io.write(folder, tensors)
  else:
    infos = {
      n: checkpoints.TensorInfo(t.shape, t.dtype) for n, t in tensors.items()
    }
    with sharded.Writer(folder, infos, shard) as writer:
      for name, tensor in tensors.items():
        writer.write(name, tensor)
  files = {
    'config.json': json.dumps(CONFIG | (config or {}), indent=2),
    'generation_config.json': json.dumps({'bos_token_id': 1}),
    'tokenizer.json': tokenizer(words),
  }
  for name, text in files.items():
    (folder / name).write_text(text)
  return folder


def family(folder, count=2, **options):
  """Writes `base` and its fine-tunes `e0`, `e1`, ...; the tensors by model."""
  models = {'base': base()}
  models |= {f'e{k}': tuned(models['base'], k + 1) for k in range(count)}
  for name, tensors in models.items():
    write(folder / name, tensors, **options)
  return models


def recipe(folder, method='task_arithmetic', count=2, **keys):
  """Writes `recipe.yaml`; keys of the recipe go before what stands here."""
  document = {
    'merge_method': method,
    'base_model': 'base',
    'models': [
      {'model': f'e{k}', 'parameters': {'weight': 0.5 + k / 4}}
      for k in range(count)
    ],
  } | keys
  path = folder / 'recipe.yaml'
  # JSON is YAML, and says null where a key shall be missing.
  path.write_text(
    json.dumps({k: v for k, v in document.items() if v is not None}, indent=1)
  )
  return path


def read(folder):
  """The tensors of a folder, as the safetensors library has them."""
  tensors = {}
  for path in sorted(folder.glob('*.safetensors')):
    tensors |= safetensors.numpy.load_file(path)
  return tensors


def assert_same(have, want):
  """Names, types, shapes and bits."""
  assert set(have) == set(want)
  for name, tensor in want.items():
    assert have[name].dtype == tensor.dtype, name
    assert have[name].shape == tensor.shape, name
    assert have[name].tobytes() == tensor.tobytes(), name
