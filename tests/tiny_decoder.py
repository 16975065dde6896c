"""A tiny random Llama and token requests for it."""

import numpy as np

from automerge_jax import trees
from automerge_jax.models import base, llama
from automerge_jax.tasks.packing import Request

VOCAB = 61
CONFIG = {
  'model_type': 'llama',
  'vocab_size': VOCAB,
  'hidden_size': 16,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'intermediate_size': 24,
  'max_position_embeddings': 64,
  'rms_norm_eps': 1e-5,
  'rope_theta': 1e4,
  'hidden_act': 'silu',
  'tie_word_embeddings': True,
}


def tensors(seed=0):
  """Random tensors by stored name."""
  c, draw = CONFIG, np.random.default_rng(seed)
  wide, inner = c['hidden_size'], c['intermediate_size']
  groups = wide // c['num_attention_heads'] * c['num_key_value_heads']
  shapes = {'embed_tokens': (VOCAB, wide), 'norm': (wide,)}
  for i in range(c['num_hidden_layers']):
    layer = {
      'self_attn.q_proj': (wide, wide),
      'self_attn.k_proj': (groups, wide),
      'self_attn.v_proj': (groups, wide),
      'self_attn.o_proj': (wide, wide),
      'mlp.gate_proj': (inner, wide),
      'mlp.up_proj': (inner, wide),
      'mlp.down_proj': (wide, inner),
      'input_layernorm': (wide,),
      'post_attention_layernorm': (wide,),
    }
    shapes |= {f'layers.{i}.{name}': shape for name, shape in layer.items()}
  return {
    f'model.{name}.weight': (
      draw.normal(size=shape) * 0.4 + (len(shape) == 1)
    ).astype(np.float32)
    for name, shape in shapes.items()
  }


def model(seed=0):
  """Family and Params."""
  stored = tensors(seed)
  family = llama.family(llama.config_from_hf(CONFIG, list(stored)))
  base.check_keys(family, list(stored))
  params = base.pack(family.keys, stored)
  assert all(np.isfinite(x).all() for x in trees.flatten(params).values())
  return family, params


def questions(count=23, seed=1):
  """Requests in groups that share their context, some with long beginnings.

  Returns:
    One list of requests for each item: different choices, among them one of
    another's first tokens, single tokens, and a repeated one.
  """
  draw = np.random.default_rng(seed)

  def some(low, high):
    return tuple(
      int(t) for t in draw.integers(3, VOCAB, draw.integers(low, high))
    )

  instruction = some(6, 7)
  items = []
  for index in range(count):
    context = (instruction if index % 3 else ()) + some(1, 14)
    kind = index % 4
    if kind == 0:
      choices = [(5,), (9,)]
    elif kind == 1:
      choices = [some(1, 5) for _ in range(4)]
    elif kind == 2:
      longest = some(4, 7)
      choices = [longest, longest[:2], (*longest[:3], 4), longest]
    else:
      choices = [some(8, 20)]
    items.append([Request(context, choice) for choice in choices])
  return items
