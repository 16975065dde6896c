"""BERT encoder: https://arxiv.org/abs/1810.04805, as in Hugging Face `bert`.

Outputs are the last hidden states [B, T, d]. Pooling and heads are not part of
the trunk; the checkpoint's own pooler is carried along in `final`, unused.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from automerge_jax.types import Array, Family, Key, Params


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of a BERT encoder."""

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  mlp_size: int
  max_positions: int
  type_vocab_size: int
  layer_norm_eps: float
  pooler: bool


_ENTRIES = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'mlp_size': 'intermediate_size',
  'max_positions': 'max_position_embeddings',
  'type_vocab_size': 'type_vocab_size',
  'layer_norm_eps': 'layer_norm_eps',
}


def config_from_hf(hf: Mapping[str, Any], pooler: bool = True) -> Config:
  """Reads a Hugging Face `config.json`.

  Args:
    hf: the parsed file.
    pooler: whether the checkpoint has pooler weights.

  Raises:
    ValueError: naming a feature that is not implemented, a missing entry or
      sizes that do not fit.
  """
  wanted = {
    'hidden_act': 'gelu',
    'position_embedding_type': 'absolute',
    'is_decoder': False,
    'add_cross_attention': False,
  }
  for name, value in wanted.items():
    if hf.get(name, value) != value:
      raise ValueError(
        f'BERT config has {name}={hf[name]!r}; only {value!r} is implemented'
      )
  missing = sorted(set(_ENTRIES.values()) - set(hf))
  if missing:
    raise ValueError(f'BERT config lacks the entries {missing}')
  config = Config(
    **{field: hf[entry] for field, entry in _ENTRIES.items()}, pooler=pooler
  )
  if config.hidden_size % config.num_heads:
    raise ValueError(
      f'BERT config has hidden_size={config.hidden_size}, which is no multiple '
      f'of num_attention_heads={config.num_heads}'
    )
  return config


def gelu(x: Array) -> Array:
  """Exact GELU; faster on CPU than jax.nn.gelu's erfc, and the same values."""
  return 0.5 * x * (1.0 + jax.lax.erf(x * 2**-0.5))


class Stem(nn.Module):
  """Sum of word, position and segment embeddings, normalised."""

  config: Config

  @nn.compact
  def __call__(self, ids: Array) -> Array:
    c = self.config
    if ids.shape[-1] > c.max_positions:
      raise ValueError(
        f'input has {ids.shape[-1]} tokens; the model has positions for '
        f'{c.max_positions}: truncate the input'
      )
    word = nn.Embed(c.vocab_size, c.hidden_size, name='word')(ids)
    positions = jnp.arange(ids.shape[-1])
    position = nn.Embed(c.max_positions, c.hidden_size, name='position')(
      positions
    )
    segments = jnp.zeros(ids.shape[-1], jnp.int32)
    segment = nn.Embed(c.type_vocab_size, c.hidden_size, name='segment')(
      segments
    )
    x = word + (position + segment)[None]
    return nn.LayerNorm(c.layer_norm_eps, name='norm')(x)


class Attention(nn.Module):
  """Self-attention over [B, T, d] with an additive mask [B, 1, 1, T]."""

  config: Config

  @nn.compact
  def __call__(self, x: Array, bias: Array) -> Array:
    c = self.config
    size = c.hidden_size // c.num_heads

    def heads(name):  # [B, H, T, d]: matmuls then run over contiguous T x d
      y = nn.Dense(c.hidden_size, name=name)(x)
      return y.reshape(*y.shape[:-1], c.num_heads, size).swapaxes(-2, -3)

    query, key, value = heads('query'), heads('key'), heads('value')
    scores = query @ key.swapaxes(-1, -2) * size**-0.5 + bias
    y = jax.nn.softmax(scores, axis=-1) @ value
    y = y.swapaxes(-2, -3).reshape(x.shape)
    return nn.Dense(c.hidden_size, name='output')(y)


class Block(nn.Module):
  """One post-norm encoder layer."""

  config: Config

  @nn.compact
  def __call__(self, x: Array, bias: Array) -> Array:
    c = self.config
    y = Attention(c, name='attention')(x, bias)
    x = nn.LayerNorm(c.layer_norm_eps, name='attention_norm')(x + y)
    y = gelu(nn.Dense(c.mlp_size, name='mlp_input')(x))
    y = nn.Dense(c.hidden_size, name='mlp_output')(y)
    return nn.LayerNorm(c.layer_norm_eps, name='mlp_norm')(x + y)


def family(config: Config) -> Family:
  """The three functions and the key table of one BERT configuration.

  Inputs are `ids` and `mask`, int32 [B, T].
  """
  stem, block = Stem(config), Block(config)

  def embed(params: Params, inputs: Mapping[str, Array]):
    x = stem.apply({'params': params['stem']}, inputs['ids'])
    allowed = inputs['mask'][:, None, None, :] > 0
    return x, jnp.where(allowed, 0.0, jnp.finfo(x.dtype).min)

  def layer(layer_params: Params, carry, layer_info):
    del layer_info
    x, bias = carry
    return block.apply({'params': layer_params}, x, bias), bias

  def head(params: Params, carry):
    del params
    return carry[0]

  return Family(
    name='bert',
    num_layers=config.num_layers,
    embed=embed,
    block=layer,
    head=head,
    layer_info=None,
    keys=_keys(config),
    components={
      'coarse': (
        ('stem', 'embeddings'),
        ('rest', 'LayerNorm'),
        ('attention', 'attention'),
        ('mlp', None),
      ),
      'fine': (
        ('stem', 'embeddings'),
        ('norm', 'LayerNorm'),
        ('query', 'query'),
        ('key', 'key'),
        ('value', 'value'),
        ('attention output', 'attention'),
        ('mlp input', 'intermediate'),
        ('mlp output', None),
      ),
    },
    skip=('embeddings.position_ids',),  # an integer buffer, not a weight
  )


def _keys(config: Config) -> tuple[Key, ...]:
  norm = {'weight': 'scale', 'bias': 'bias'}
  dense = {'weight': 'kernel', 'bias': 'bias'}
  table = {'weight': 'embedding'}
  outer = {
    'embeddings.word_embeddings': ('stem/word', table),
    'embeddings.position_embeddings': ('stem/position', table),
    'embeddings.token_type_embeddings': ('stem/segment', table),
    'embeddings.LayerNorm': ('stem/norm', norm),
  }
  if config.pooler:
    outer['pooler.dense'] = ('final/pooler', dense)
  inner = {
    'attention.self.query': ('attention/query', dense),
    'attention.self.key': ('attention/key', dense),
    'attention.self.value': ('attention/value', dense),
    'attention.output.dense': ('attention/output', dense),
    'attention.output.LayerNorm': ('attention_norm', norm),
    'intermediate.dense': ('mlp_input', dense),
    'output.dense': ('mlp_output', dense),
    'output.LayerNorm': ('mlp_norm', norm),
  }
  rows = [
    Key(f'{stored}.{kind}', f'{path}/{leaf}', None, leaf == 'kernel')
    for stored, (path, kinds) in outer.items()
    for kind, leaf in kinds.items()
  ]
  rows += [
    Key(
      f'encoder.layer.{i}.{stored}.{kind}',
      f'layers/{path}/{leaf}',
      i,
      leaf == 'kernel',
    )
    for i in range(config.num_layers)
    for stored, (path, kinds) in inner.items()
    for kind, leaf in kinds.items()
  ]
  return tuple(rows)
