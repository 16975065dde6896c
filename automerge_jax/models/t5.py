"""T5, T5 v1.1 and Flan-T5: https://arxiv.org/abs/1910.10683, as Hugging Face.

An encoder and a decoder over one Params: `layers/encoder` and `layers/decoder`
are two stacks, which may differ in depth. The relative position bias of each
stack, which its layers share and block 0 stores, is in the stem.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from automerge_jax.models import activations, attention, base, relative_bias
from automerge_jax.models.attention import Places
from automerge_jax.models.t5_config import (
  COMPONENTS,
  Config,
  config_from_hf,
  keys,
)
from automerge_jax.types import Array, Family, Params

__all__ = ['Config', 'config_from_hf', 'family']

Carry = dict[str, Any]
Held = dict[str, Array]  # `key` and `value`, [B, H, S, dh]


class Norm(nn.Module):
  """Root-mean-square norm over the last axis, statistics in float32."""

  eps: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
    return y.astype(x.dtype) * scale.reshape((1,) * (x.ndim - 1) + (-1,))


class Attention(nn.Module):
  """Attention of x [B, T, d] to what `hold` makes of states [B, S, d].

  Without states `hold` gives keys and values that are known already. Scores
  are not scaled.
  """

  config: Config

  @nn.compact
  def __call__(
    self,
    x: Array,
    states: Array | None,
    seen: Array,
    bias: Array | None = None,
    hold: Callable[[Any], Held] = lambda held: held,
  ) -> tuple[Array, Held]:
    c = self.config

    def heads(name, y):
      size = c.num_heads * c.head_size
      y = nn.Dense(size, use_bias=False, name=name)(y)
      return attention.split_heads(y, c.num_heads)

    query = heads('query', x)
    held: Held | None = None
    if states is not None:
      held = {name: heads(name, states) for name in ('key', 'value')}
    held = hold(held)
    y = attention.attend(
      query, held['key'], held['value'], seen, 1.0, bias=bias
    )
    output = nn.Dense(c.hidden_size, use_bias=False, name='output')
    return output(attention.join_heads(y)), held


class MLP(nn.Module):
  """Two linear layers, of which the first may have a gate."""

  config: Config

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config

    def linear(name, size):
      return nn.Dense(size, use_bias=False, name=name)

    act = activations.ACTIVATIONS[c.activation]
    y = linear('input', c.mlp_size)(x)
    y = act(linear('gate', c.mlp_size)(x)) * y if c.gated else act(y)
    return linear('output', c.hidden_size)(y)


class Block(nn.Module):
  """One pre-norm layer, of the decoder where `carry` has `across`.

  With memory, which holds the encoder's keys and values as `cross_key` and
  `cross_value`, it returns the extended memory too.
  """

  config: Config

  @nn.compact
  def __call__(self, carry: Carry, memory: Any = None) -> tuple[Carry, Any]:
    c = self.config

    def norm(name, y):
      return Norm(c.norm_eps, name=name)(y)

    def remember(held):
      return attention.write(memory, carry['slot'], held['key'], held['value'])

    def recall(held):
      del held
      return {name: memory[f'cross_{name}'] for name in ('key', 'value')}

    x = carry['x']
    y = norm('attention_norm', x)
    hold = {} if memory is None else {'hold': remember}
    y, held = Attention(c, name='attention')(
      y, y, carry['seen'], carry['bias'], **hold
    )
    x = _finite(x + y)
    if 'across' in carry:
      hold = {} if memory is None else {'hold': recall}
      y, _ = Attention(c, name='cross')(
        norm('cross_norm', x), carry.get('encoded'), carry['across'], **hold
      )
      x = _finite(x + y)
    x = _finite(x + MLP(c, name='mlp')(norm('mlp_norm', x)))
    return dict(carry, x=x), memory and memory | held


def family(config: Config) -> Family:
  """The decoder with its encoder, and the key table of both.

  Inputs are `ids` and `mask` of the encoder, `decoder_ids` and `decoder_mask`,
  int32 [B, T], and perhaps `positions`, `decoder_positions`, `decoder_branch`.
  A token of the decoder sees those of the encoder with its number in the mask.
  """
  c = config
  block = Block(c)
  norm = Norm(c.norm_eps)

  def word(params: Params, ids: Array) -> Array:
    table = params['stem']['word']['embedding']
    return jnp.take(table, ids, axis=0, mode='clip')

  def bias(params: Params, stack: str, own: Places, shown: Places) -> Array:
    return relative_bias.bias(
      params['stem'][f'{stack}_bias']['embedding'],
      own.positions,
      shown.positions,
      c.max_distance,
      both=stack == 'encoder',
    )

  def embed_encoder(params: Params, inputs: Mapping[str, Array]):
    own = attention.places(inputs)
    near = own if 'positions' in inputs else _first_row(own)
    return {
      'x': word(params, inputs['ids']),
      'seen': attention.sees(own, own, causal=False),
      'bias': bias(params, 'encoder', near, near),
    }

  def embed(params: Params, inputs: Mapping[str, Any]) -> Carry:
    own = attention.places(inputs, 'decoder_')
    carry: Carry = {'x': word(params, inputs['decoder_ids'])}
    if 'memory' in inputs:
      memory = inputs['memory']
      carry['slot'] = inputs['slot']
      carry['memory'] = attention.occupy(memory, inputs['slot'], own)
      carry['memory']['encoder_mask'] = memory['encoder_mask']
      shown, encoder_mask = (
        attention.held(carry['memory']),
        memory['encoder_mask'],
      )
      near = own, shown
    else:
      shown, encoder_mask = own, jnp.asarray(inputs['mask'], jnp.int32)
      carry['encoded'] = inputs['encoded']
      given = 'decoder_positions' in inputs
      near = (own, own) if given else (_first_row(own),) * 2
    carry['seen'] = attention.sees(own, shown)
    carry['bias'] = bias(params, 'decoder', *near)
    ignored = jnp.zeros_like(encoder_mask)
    carry['across'] = attention.sees(
      own, Places(ignored, encoder_mask, ignored), causal=False
    )
    return carry

  def layer(layer_params, carry, layer_info, memory=None):
    del layer_info
    return block.apply({'params': layer_params}, carry, memory)

  def head(stack: str):
    return lambda params, carry: norm.apply(
      {'params': params['final'][f'{stack}_norm']}, carry['x']
    )

  def logits(params: Params, hidden: Array) -> Array:
    if c.scaled:
      hidden = hidden * jnp.asarray(c.hidden_size**-0.5, hidden.dtype)
    if c.head == 'tied':
      kernel = params['stem']['word']['embedding'].T
    else:
      kernel = params['final']['head']['kernel']
    return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)

  def cache(params: Params, inputs: Mapping[str, Array], length: int):
    encoded = base.forward(encoder, params, inputs)
    rows, size = encoded.shape[0], c.head_size
    memory = attention.empty(
      c.decoder_layers, rows, c.num_heads, length, size, encoded.dtype
    )
    cross = params['layers']['decoder']['cross']
    for name in ('key', 'value'):
      memory['layers'][f'cross_{name}'] = jax.lax.map(
        lambda kernel: attention.split_heads(encoded @ kernel, c.num_heads),
        cross[name]['kernel'],
      )
    memory['encoder_mask'] = jnp.asarray(inputs['mask'], jnp.int32)
    return memory

  encoder = Family(
    name='t5',
    num_layers=c.encoder_layers,
    embed=embed_encoder,
    block=lambda *arguments: layer(*arguments)[0],
    head=head('encoder'),
    layer_info=None,
    keys=(),
    components=COMPONENTS,
    stack='layers/encoder',
  )
  return Family(
    name='t5',
    num_layers=max(c.encoder_layers, c.decoder_layers),
    embed=embed,
    block=lambda *arguments: layer(*arguments)[0],
    head=head('decoder'),
    layer_info=None,
    keys=keys(c),
    components=COMPONENTS,
    stack='layers/decoder',
    logits=logits if c.head is not None else None,
    cache=cache,
    step=layer,
    encoder=encoder,
  )


def _first_row(places: Places) -> Places:
  """Of places that are the same in every row."""
  return Places(*(x[:1] for x in places))


def _finite(x: Array) -> Array:
  """Float16 states kept from overflow, as T5 in half precision needs it."""
  if x.dtype != jnp.float16:
    return x
  most = jnp.finfo(x.dtype).max - jnp.asarray(1000, x.dtype)
  return jnp.clip(x, -most, most)
