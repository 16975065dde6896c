"""Decoders of Llama's shape: Llama, SmolLM2, Mistral, Qwen 2 and 3, Gemma 1-3.

https://arxiv.org/abs/2302.13971 and its successors, as in Hugging Face. One
layout driven by the config: pre-norm blocks of rotary grouped-query attention
and a gated MLP; Gemma 2 and 3 also norm what a block adds.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import attention, rope
from automerge_jax.models.llama_config import Config, config_from_hf
from automerge_jax.models.llama_keys import COMPONENTS, branches, keys, skip
from automerge_jax.types import Array, Family, Params

__all__ = ['Config', 'config_from_hf', 'family']

_ACTIVATIONS = {
  'silu': jax.nn.silu,
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_pytorch_tanh': lambda x: jax.nn.gelu(x, approximate=True),
}


class Norm(nn.Module):
  """Root-mean-square norm over the last axis, statistics in float32."""

  eps: float
  offset: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
    gain = self.offset + scale.astype(jnp.float32)
    return (y * gain.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


class Attention(nn.Module):
  """Self-attention over [B, T, d], or over a memory that it extends."""

  config: Config

  @nn.compact
  def __call__(self, x, rotation, seen, memory: Any = None, slot: Any = None):
    c = self.config

    def project(name, heads, bias):
      y = nn.Dense(heads * c.head_size, use_bias=bias, name=name)(x)
      return attention.split_heads(y, heads)

    query = project('query', c.num_heads, c.qkv_bias)
    key = project('key', c.num_kv_heads, c.qkv_bias)
    value = project('value', c.num_kv_heads, c.qkv_bias)
    if c.qk_norm:
      query = Norm(c.norm_eps, c.norm_offset, name='query_norm')(query)
      key = Norm(c.norm_eps, c.norm_offset, name='key_norm')(key)
    query, key = rope.rotate(query, rotation), rope.rotate(key, rotation)
    if memory is not None:
      memory = attention.write(memory, slot, key, value)
      key, value = memory['key'], memory['value']
    y = attention.attend(
      query, key, value, seen, c.attention_scale, c.attention_cap
    )
    y = attention.join_heads(y)
    y = nn.Dense(c.hidden_size, use_bias=c.output_bias, name='output')(y)
    return y, memory


class MLP(nn.Module):
  """Gated MLP: down(act(gate(x)) * up(x))."""

  config: Config

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    act = _ACTIVATIONS[c.activation]
    gate = nn.Dense(c.mlp_size, use_bias=c.mlp_bias, name='gate')(x)
    up = nn.Dense(c.mlp_size, use_bias=c.mlp_bias, name='up')(x)
    down = nn.Dense(c.hidden_size, use_bias=c.mlp_bias, name='down')
    return down(act(gate) * up)


class Block(nn.Module):
  """One layer; with memory it returns the extended memory too."""

  config: Config

  @nn.compact
  def __call__(self, x, rotation, seen, memory: Any = None, slot: Any = None):
    c = self.config

    def norm(name, y):
      return Norm(c.norm_eps, c.norm_offset, name=name)(y)

    y, memory = Attention(c, name='attention')(
      norm('attention_norm', x), rotation, seen, memory, slot
    )
    x = x + (norm('attention_post_norm', y) if c.post_norms else y)
    y = MLP(c, name='mlp')(norm('mlp_norm', x))
    return x + (norm('mlp_post_norm', y) if c.post_norms else y), memory


def family(config: Config) -> Family:
  """The functions and the key table of one configuration."""
  c = config
  block = Block(c)
  final = Norm(c.norm_eps, c.norm_offset)
  tables = [rope.table(dict(p), c.head_size) for p in c.rope]

  def embed(params: Params, inputs: Mapping[str, Any]):
    table = params['stem']['word']['embedding']
    x = jnp.take(table, inputs['ids'], axis=0)
    if c.embedding_scale:
      x = x * jnp.asarray(math.sqrt(c.hidden_size), x.dtype)
    own = attention.places(inputs)
    carry: dict[str, Any] = {'x': x}
    if 'memory' in inputs:
      carry['slot'] = inputs['slot']
      carry['memory'] = attention.occupy(inputs['memory'], inputs['slot'], own)
      shown = attention.held(carry['memory'])
    else:
      shown = own
    carry['seen'] = attention.sees(own, shown)
    if any(window is not None for window in c.windows):
      own_positions = own.positions[:, :, None]
      carry['distance'] = own_positions - shown.positions[:, None, :]
    turned = [rope.angles(t, own.positions) for t in tables]
    carry['rotation'] = jax.tree.map(lambda *t: jnp.stack(t), *turned)
    return carry

  def layer(layer_params, carry, layer_info, memory=None):
    rotation = jax.tree.map(lambda t: t[layer_info['rope']], carry['rotation'])
    seen = carry['seen']
    if 'distance' in carry:
      seen &= carry['distance'] < layer_info['window']
    x, memory = block.apply(
      {'params': layer_params},
      carry['x'],
      rotation,
      seen,
      memory,
      carry.get('slot'),
    )
    return dict(carry, x=x), memory

  def head(params: Params, carry):
    return final.apply({'params': params['final']['norm']}, carry['x'])

  def logits(params: Params, hidden: Array) -> Array:
    if c.head == 'tied':
      table = params['stem']['word']['embedding'].T
    else:
      table = params['final']['head']['kernel']
    y = jnp.matmul(hidden, table, preferred_element_type=jnp.float32)
    return y if c.logit_cap is None else c.logit_cap * jnp.tanh(y / c.logit_cap)

  def cache(params: Params, inputs: Mapping[str, Array], length: int):
    dtype = params['stem']['word']['embedding'].dtype
    rows = inputs['ids'].shape[0]
    return attention.empty(
      c.num_layers, rows, c.num_kv_heads, length, c.head_size, dtype
    )

  far = np.iinfo(np.int32).max
  windows = [far if window is None else window for window in c.windows]
  return Family(
    name=c.name,
    num_layers=c.num_layers,
    embed=embed,
    block=lambda *arguments: layer(*arguments)[0],
    head=head,
    layer_info={
      'window': np.array(windows, np.int32),
      'rope': np.array(c.rope_index, np.int32),
    },
    keys=keys(c),
    components=COMPONENTS,
    skip=skip(c),
    logits=logits if c.head is not None else None,
    cache=cache,
    step=layer,
    max_tokens=c.max_tokens,
    branches=branches(c),
  )
