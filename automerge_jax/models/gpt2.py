"""GPT-2: Radford et al. (2019), as in Hugging Face `gpt2`.

A pre-norm decoder with learned positions. Its linear layers are stored [in,
out], and query, key and value as one tensor, so they are one leaf here too.
Heads other than that for tokens are carried along in `final`, unused.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import activations, attention
from automerge_jax.types import Array, Family, Key, Params

_PREFIX = 'transformer.'
_HEAD = 'lm_head.weight'
_OTHER_HEADS = ('score.', 'classifier.', 'multiple_choice_head.')


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of a GPT-2 decoder and what its checkpoint stores.

  Attributes:
    scale_by_size: whether scores are divided by the root of the head size.
    scale_by_layer: whether they are divided by the layer's number, from 1.
    head: 'own', 'tied' (to the embedding) or None.
    prefix: of the trunk's stored names.
    heads: stored names of other heads.
  """

  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  mlp_size: int
  max_positions: int
  layer_norm_eps: float
  activation: str
  scale_by_size: bool
  scale_by_layer: bool
  head: str | None
  prefix: str
  heads: tuple[str, ...]


def config_from_hf(hf: Mapping[str, Any], stored: Sequence[str]) -> Config:
  """Reads a Hugging Face `config.json`.

  Args:
    hf: the parsed file; what it leaves out is as in GPT-2's smallest model.
    stored: names of the checkpoint's tensors.

  Raises:
    ValueError: naming a feature that is not implemented, or sizes that do not
      fit.
  """
  if hf.get('add_cross_attention', False):
    raise ValueError(
      'GPT-2 config has add_cross_attention=True; only False is implemented'
    )
  size, heads = hf.get('n_embd', 768), hf.get('n_head', 12)
  if size % heads:
    raise ValueError(
      f'GPT-2 config has n_embd={size}, which is no multiple of n_head={heads}'
    )
  prefixed = any(name.startswith(_PREFIX) for name in stored)
  tied = hf.get('tie_word_embeddings', True)
  return Config(
    vocab_size=hf.get('vocab_size', 50257),
    hidden_size=size,
    num_layers=hf.get('n_layer', 12),
    num_heads=heads,
    mlp_size=hf.get('n_inner') or 4 * size,
    max_positions=hf.get('n_positions', 1024),
    layer_norm_eps=hf.get('layer_norm_epsilon', 1e-5),
    activation=activations.check(
      hf.get('activation_function', 'gelu_new'), 'activation_function', 'GPT-2'
    ),
    scale_by_size=hf.get('scale_attn_weights', True),
    scale_by_layer=hf.get('scale_attn_by_inverse_layer_idx', False),
    head='own' if _HEAD in stored else 'tied' if tied else None,
    prefix=_PREFIX if prefixed else '',
    heads=tuple(n for n in stored if n.startswith(_OTHER_HEADS)),
  )


class Attention(nn.Module):
  """Causal self-attention, or attention over a memory that it extends."""

  config: Config

  @nn.compact
  def __call__(self, x, scale, seen, memory: Any = None, slot: Any = None):
    c = self.config
    fused = nn.Dense(3 * c.hidden_size, name='input')(x)
    query, key, value = (
      attention.split_heads(y, c.num_heads)
      for y in jnp.split(fused, 3, axis=-1)
    )
    if memory is not None:
      memory = attention.write(memory, slot, key, value)
      key, value = memory['key'], memory['value']
    y = attention.attend(query, key, value, seen, scale)
    y = nn.Dense(c.hidden_size, name='output')(attention.join_heads(y))
    return y, memory


class Block(nn.Module):
  """One pre-norm layer; with memory it returns the extended memory too."""

  config: Config

  @nn.compact
  def __call__(self, x, scale, seen, memory: Any = None, slot: Any = None):
    c = self.config
    act = activations.ACTIVATIONS[c.activation]
    y = _norm(c, 'attention_norm')(x)
    y, memory = Attention(c, name='attention')(y, scale, seen, memory, slot)
    x = x + y
    y = nn.Dense(c.mlp_size, name='mlp_input')(_norm(c, 'mlp_norm')(x))
    return x + nn.Dense(c.hidden_size, name='mlp_output')(act(y)), memory


def family(config: Config) -> Family:
  """The functions and the key table of one configuration."""
  c = config
  block = Block(c)
  final = _norm(c, None)
  scales = np.ones(c.num_layers, np.float32)
  if c.scale_by_size:
    scales *= (c.hidden_size // c.num_heads) ** -0.5
  if c.scale_by_layer:
    scales /= np.arange(1, c.num_layers + 1, dtype=np.float32)

  def embed(params: Params, inputs: Mapping[str, Any]) -> dict[str, Any]:
    ids = inputs['ids']
    if 'positions' not in inputs and ids.shape[-1] > c.max_positions:
      raise ValueError(
        f'input has {ids.shape[-1]} tokens; the model has positions for '
        f'{c.max_positions}: truncate the input'
      )
    own = attention.places(inputs)
    stem = params['stem']
    x = jnp.take(stem['word']['embedding'], ids, axis=0, mode='clip')
    # A position beyond the table gives NaN, not another position's row.
    x += jnp.take(
      stem['position']['embedding'], own.positions, axis=0, mode='fill'
    )
    carry: dict[str, Any] = {'x': x}
    shown = own
    if 'memory' in inputs:
      carry['slot'] = inputs['slot']
      carry['memory'] = attention.occupy(inputs['memory'], inputs['slot'], own)
      shown = attention.held(carry['memory'])
    carry['seen'] = attention.sees(own, shown)
    return carry

  def layer(layer_params, carry, layer_info, memory=None):
    x, memory = block.apply(
      {'params': layer_params},
      carry['x'],
      layer_info,
      carry['seen'],
      memory,
      carry.get('slot'),
    )
    return dict(carry, x=x), memory

  def head(params: Params, carry):
    return final.apply({'params': params['final']['norm']}, carry['x'])

  def logits(params: Params, hidden: Array) -> Array:
    if c.head == 'tied':
      kernel = params['stem']['word']['embedding'].T
    else:
      kernel = params['final']['head']['kernel']
    return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)

  def cache(params: Params, inputs: Mapping[str, Array], length: int):
    return attention.empty(
      c.num_layers,
      inputs['ids'].shape[0],
      c.num_heads,
      length,
      c.hidden_size // c.num_heads,
      params['stem']['word']['embedding'].dtype,
    )

  return Family(
    name='gpt2',
    num_layers=c.num_layers,
    embed=embed,
    block=lambda *arguments: layer(*arguments)[0],
    head=head,
    layer_info=scales,
    keys=_keys(c),
    components={
      'coarse': (
        ('stem', 'wte'),
        ('stem', 'wpe'),
        ('rest', 'ln_'),
        ('attention', 'attn'),
        ('mlp', None),
      ),
      'fine': (
        ('stem', 'wte'),
        ('stem', 'wpe'),
        ('norm', 'ln_'),
        ('attention input', 'c_attn'),
        ('attention output', 'attn'),
        ('mlp input', 'c_fc'),
        ('mlp output', None),
      ),
    },
    skip=tuple(  # causal masks, not weights
      f'{c.prefix}h.{i}.attn.{buffer}'
      for i in range(c.num_layers)
      for buffer in ('bias', 'masked_bias')
    ),
    logits=logits if c.head is not None else None,
    cache=cache,
    step=layer,
    max_tokens=c.max_positions,
    branches=() if c.scale_by_layer else (('c_proj', 0.0),),
  )


def _norm(config: Config, name: str | None) -> nn.LayerNorm:
  # Far from zero the mean of squares less the square of means loses digits.
  return nn.LayerNorm(config.layer_norm_eps, use_fast_variance=False, name=name)


def _keys(config: Config) -> tuple[Key, ...]:
  norm = {'weight': 'scale', 'bias': 'bias'}
  linear = {'weight': 'kernel', 'bias': 'bias'}
  table = {'weight': 'embedding'}
  outer = {
    'wte': ('stem/word', table),
    'wpe': ('stem/position', table),
    'ln_f': ('final/norm', norm),
  }
  inner = {
    'ln_1': ('attention_norm', norm),
    'attn.c_attn': ('attention/input', linear),
    'attn.c_proj': ('attention/output', linear),
    'ln_2': ('mlp_norm', norm),
    'mlp.c_fc': ('mlp_input', linear),
    'mlp.c_proj': ('mlp_output', linear),
  }
  rows = [
    Key(f'{config.prefix}{stored}.{kind}', f'{path}/{leaf}', None, False)
    for stored, (path, kinds) in outer.items()
    for kind, leaf in kinds.items()
  ]
  rows += [
    Key(
      f'{config.prefix}h.{i}.{stored}.{kind}', f'layers/{path}/{leaf}', i, False
    )
    for i in range(config.num_layers)
    for stored, (path, kinds) in inner.items()
    for kind, leaf in kinds.items()
  ]
  if config.head == 'own':
    rows.append(Key(_HEAD, 'final/head/kernel', None, True))
  rows += [Key(name, f'final/{name}', None, False) for name in config.heads]
  return tuple(rows)
