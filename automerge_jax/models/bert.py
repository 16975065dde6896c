"""BERT encoder: https://arxiv.org/abs/1810.04805, as in Hugging Face `bert`.

Outputs are the last hidden states [B, T, d]. Pooling and heads are not part of
the trunk; the checkpoint's own are carried along in `final`, unused, so that
they are merged and exported like everything else.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from automerge_jax.models import activations, attention
from automerge_jax.models.activations import gelu
from automerge_jax.types import Array, Family, Key, Params

__all__ = ['Config', 'config_from_hf', 'family', 'gelu', 'read_config']

HEADS = ('cls.', 'classifier.', 'qa_outputs.', 'lm_head.')


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of a BERT encoder and what its checkpoint stores.

  Attributes:
    padding_position: of RoBERTa the row of the position table for padding;
      real tokens are counted from the next one on. None: from row 0 on.
    prefix: of the trunk's stored names.
    heads: stored names of heads on top of the trunk.
    gamma: whether scales are stored as `gamma` and `beta`, as from TensorFlow.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  mlp_size: int
  max_positions: int
  type_vocab_size: int
  layer_norm_eps: float
  pooler: bool
  activation: str = 'gelu'
  padding_position: int | None = None
  prefix: str = ''
  heads: tuple[str, ...] = ()
  gamma: bool = False

  @property
  def max_tokens(self) -> int:
    """Most tokens of a text."""
    return self.max_positions - self.first_position

  @property
  def first_position(self) -> int:
    """Row of the position table of a text's first token."""
    return 0 if self.padding_position is None else self.padding_position + 1


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


def config_from_hf(
  hf: Mapping[str, Any], stored: Sequence[str] = ('pooler.dense.weight',)
) -> Config:
  """Reads a Hugging Face `config.json`.

  Args:
    hf: the parsed file.
    stored: names of the checkpoint's tensors; by default of a bare trunk with
      a pooler.

  Raises:
    ValueError: naming a feature that is not implemented, a missing entry or
      sizes that do not fit.
  """
  return read_config(hf, stored, 'BERT', 'bert.')


def read_config(
  hf: Mapping[str, Any], stored: Sequence[str], name: str, prefix: str
) -> Config:
  """As `config_from_hf`, of a model of BERT's shape with another prefix."""
  wanted = {
    'position_embedding_type': 'absolute',
    'is_decoder': False,
    'add_cross_attention': False,
  }
  for entry, value in wanted.items():
    if hf.get(entry, value) != value:
      raise ValueError(
        f'{name} config has {entry}={hf[entry]!r}; only {value!r} is '
        'implemented'
      )
  missing = sorted(set(_ENTRIES.values()) - set(hf))
  if missing:
    raise ValueError(f'{name} config lacks the entries {missing}')
  if not any(found.startswith(prefix) for found in stored):
    prefix = ''
  config = Config(
    **{field: hf[entry] for field, entry in _ENTRIES.items()},
    pooler=f'{prefix}pooler.dense.weight' in stored,
    activation=activations.check(
      hf.get('hidden_act', 'gelu'), 'hidden_act', name
    ),
    prefix=prefix,
    heads=tuple(n for n in stored if prefix and n.startswith(HEADS)),
    gamma=f'{prefix}embeddings.LayerNorm.gamma' in stored,
  )
  if config.hidden_size % config.num_heads:
    raise ValueError(
      f'{name} config has hidden_size={config.hidden_size}, which is no '
      f'multiple of num_attention_heads={config.num_heads}'
    )
  return config


class Stem(nn.Module):
  """Sum of word, position and segment embeddings, normalised.

  Without `positions` [B, T] tokens stand where they are in the row, without
  `segments` [B, T] all are of the first.
  """

  config: Config

  @nn.compact
  def __call__(
    self,
    ids: Array,
    positions: Array | None = None,
    segments: Array | None = None,
  ) -> Array:
    c = self.config
    if positions is None:
      positions = jnp.arange(ids.shape[-1])[None]
    if segments is None:
      segments = jnp.zeros_like(positions)
    word = nn.Embed(c.vocab_size, c.hidden_size, name='word')(ids)
    position = nn.Embed(c.max_positions, c.hidden_size, name='position')(
      positions
    )
    segment = nn.Embed(c.type_vocab_size, c.hidden_size, name='segment')(
      segments
    )
    x = word + (position + segment)
    return nn.LayerNorm(c.layer_norm_eps, name='norm')(x)


class Attention(nn.Module):
  """Self-attention over [B, T, d] of those whom `seen` [B, T, T] allows."""

  config: Config

  @nn.compact
  def __call__(self, x: Array, seen: Array) -> Array:
    c = self.config

    def heads(name):
      y = nn.Dense(c.hidden_size, name=name)(x)
      return attention.split_heads(y, c.num_heads)

    y = attention.attend(
      heads('query'),
      heads('key'),
      heads('value'),
      seen,
      (c.hidden_size // c.num_heads) ** -0.5,
    )
    return nn.Dense(c.hidden_size, name='output')(attention.join_heads(y))


class Block(nn.Module):
  """One post-norm encoder layer."""

  config: Config

  @nn.compact
  def __call__(self, x: Array, seen: Array) -> Array:
    c = self.config
    act = activations.ACTIVATIONS[c.activation]
    y = Attention(c, name='attention')(x, seen)
    x = nn.LayerNorm(c.layer_norm_eps, name='attention_norm')(x + y)
    y = act(nn.Dense(c.mlp_size, name='mlp_input')(x))
    y = nn.Dense(c.hidden_size, name='mlp_output')(y)
    return nn.LayerNorm(c.layer_norm_eps, name='mlp_norm')(x + y)


def family(config: Config, name: str = 'bert') -> Family:
  """The three functions and the key table of one BERT configuration.

  Inputs are `ids` and `mask`, int32 [B, T], and perhaps `positions`, `branch`
  and `segments` (Hugging Face's token_type_ids).
  """
  c = config
  block = Block(c)

  def positions(inputs: Mapping[str, Array]) -> Array | None:
    if 'positions' not in inputs and inputs['ids'].shape[-1] > c.max_tokens:
      raise ValueError(
        f'input has {inputs["ids"].shape[-1]} tokens; the model has positions '
        f'for {c.max_tokens}: truncate the input'
      )
    if c.padding_position is None:
      return inputs.get('positions')
    real = jnp.asarray(inputs['mask']) > 0
    counted = jnp.cumsum(real, axis=-1, dtype=jnp.int32) - 1
    own = inputs.get('positions', counted) + c.first_position
    return jnp.where(real, own, c.padding_position)

  def embed(params: Params, inputs: Mapping[str, Array]):
    rows = len(params['stem']['word']['embedding'])
    x = Stem(dataclasses.replace(c, vocab_size=rows)).apply(
      {'params': params['stem']},
      inputs['ids'],
      positions(inputs),
      inputs.get('segments'),
    )
    own = attention.places(inputs)
    return x, attention.sees(own, own, causal=False)

  def layer(layer_params: Params, carry, layer_info):
    del layer_info
    x, seen = carry
    return block.apply({'params': layer_params}, x, seen), seen

  def head(params: Params, carry):
    del params
    return carry[0]

  return Family(
    name=name,
    num_layers=c.num_layers,
    embed=embed,
    block=layer,
    head=head,
    layer_info=None,
    keys=_keys(c),
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
    skip=tuple(  # integer buffers, not weights
      f'{c.prefix}embeddings.{buffer}'
      for buffer in ('position_ids', 'token_type_ids')
    ),
    max_tokens=c.max_tokens,
    branches=(('output.dense', 0.0),),
    lookup='stem/word/embedding',
  )


def _keys(config: Config) -> tuple[Key, ...]:
  norm = {'weight': 'scale', 'bias': 'bias'}
  if config.gamma:
    norm = {'gamma': 'scale', 'beta': 'bias'}
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
    Key(
      f'{config.prefix}{stored}.{kind}',
      f'{path}/{leaf}',
      None,
      leaf == 'kernel',
    )
    for stored, (path, kinds) in outer.items()
    for kind, leaf in kinds.items()
  ]
  rows += [
    Key(
      f'{config.prefix}encoder.layer.{i}.{stored}.{kind}',
      f'layers/{path}/{leaf}',
      i,
      leaf == 'kernel',
    )
    for i in range(config.num_layers)
    for stored, (path, kinds) in inner.items()
    for kind, leaf in kinds.items()
  ]
  rows += [Key(head, f'final/{head}', None, False) for head in config.heads]
  return tuple(rows)
