"""Vision transformers in Hugging Face's layouts: DINOv2, ViT, CLIP's tower.

Pre-norm encoders over the patches of an image and one class token. They differ
in names, in the activation, in DINOv2's layer scale, and in that CLIP has a
norm in front of its layers and none behind them; see `vit_layouts`. Poolers,
classifiers, projections and mask tokens are carried along, unused.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import trees
from automerge_jax.models import vit_layouts
from automerge_jax.models.activations import ACTIVATIONS
from automerge_jax.types import Array, Family, Key, Params


def quick_gelu(x: Array) -> Array:
  """The approximation that OpenAI's CLIP was trained with."""
  return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS = {**ACTIVATIONS, 'quick_gelu': quick_gelu}
_CUBIC = -0.75  # torch's bicubic kernel


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of a vision transformer.

  Attributes:
    model_type: a key of `vit_layouts.LAYOUTS`.
    hidden_size, num_layers, num_heads, mlp_size, layer_norm_eps: as usual.
    grid: patches along a side of the position table.
    patch_size: pixels along a side of a patch.
    channels: of an image.
    activation: of the MLP, a key of `_ACTIVATIONS`.
    swiglu: whether the MLP is a SwiGLU of `mlp_size` gated units.
    qkv_bias: whether query, key and value have biases.
    prefix: of the encoder's stored names.
    extras: stored modules that are carried along.
    skip: stored names that are not read.
  """

  model_type: str
  hidden_size: int
  num_layers: int
  num_heads: int
  mlp_size: int
  layer_norm_eps: float
  grid: int
  patch_size: int
  channels: int
  activation: str
  swiglu: bool
  qkv_bias: bool
  prefix: str = ''
  extras: tuple[str, ...] = ()
  skip: tuple[str, ...] = ()


_REQUIRED = (
  'hidden_size',
  'num_hidden_layers',
  'num_attention_heads',
  'image_size',
  'patch_size',
)


def config_from_hf(hf: Mapping[str, Any], stored: Sequence[str]) -> Config:
  """Reads a Hugging Face `config.json` of `dinov2`, `vit` or CLIP.

  Args:
    hf: the parsed file; of a whole `clip` model, the vision tower is read.
    stored: names of the checkpoint's tensors.

  Raises:
    ValueError: naming a feature that is not implemented, a missing entry or
      sizes that do not fit.
  """
  kind = hf['model_type']
  if kind == 'clip':
    # Hugging Face writes what differs from its defaults.
    hf = vit_layouts.CLIP_DEFAULTS | dict(hf.get('vision_config') or {})
  layout = vit_layouts.LAYOUTS[kind]
  sizes = ('mlp_ratio' if kind == 'dinov2' else 'intermediate_size',)
  missing = sorted({*_REQUIRED, *sizes, 'layer_norm_eps'} - set(hf))
  if missing:
    raise ValueError(f'{kind} config lacks the entries {missing}')
  activation = hf.get('hidden_act', layout.activation)
  if activation not in _ACTIVATIONS:
    raise ValueError(
      f'{kind} config has hidden_act={activation!r}; implemented are '
      f'{sorted(_ACTIVATIONS)}' + trees.nearest(str(activation), _ACTIVATIONS)
    )
  width, heads = hf['hidden_size'], hf['num_attention_heads']
  if width % heads or hf.get('head_dim', width // heads) != width // heads:
    raise ValueError(
      f'{kind} config has hidden_size={width}, num_attention_heads={heads} and '
      f'head_dim={hf.get("head_dim")}; only heads that share the width equally '
      'are implemented'
    )
  image, patch = (_square(kind, n, hf[n]) for n in ('image_size', 'patch_size'))
  swiglu = kind == 'dinov2' and bool(hf.get('use_swiglu_ffn', False))
  if kind == 'dinov2':
    mlp_size = int(width * hf['mlp_ratio'])
    if swiglu:  # two thirds, in multiples of 8
      mlp_size = (int(mlp_size * 2 / 3) + 7) // 8 * 8
  else:
    mlp_size = hf['intermediate_size']
  prefix = layout.prefix
  if not any(name.startswith(prefix + 'embeddings.') for name in stored):
    prefix = ''
  names = set(stored)
  return Config(
    model_type=kind,
    hidden_size=width,
    num_layers=hf['num_hidden_layers'],
    num_heads=heads,
    mlp_size=mlp_size,
    layer_norm_eps=hf['layer_norm_eps'],
    grid=image // patch,
    patch_size=patch,
    channels=hf.get('num_channels', 3),
    activation=activation,
    swiglu=swiglu,
    qkv_bias=hf.get('qkv_bias', True),
    prefix=prefix,
    extras=tuple(
      module
      for module, (_, leaves) in vit_layouts.extras(layout, prefix).items()
      if any(vit_layouts.join(module, part) in names for part in leaves)
    ),
    skip=tuple(n for n in stored if vit_layouts.is_skipped(kind, n)),
  )


def _square(kind: str, name: str, value: Any) -> int:
  sides = set(value) if isinstance(value, (list, tuple)) else {value}
  if len(sides) != 1:
    raise ValueError(
      f'{kind} config has {name}={value!r}; only squares are implemented'
    )
  return int(sides.pop())


def cubic_weights(size: int, out: int) -> np.ndarray:
  """Weights [out, size] of torch's bicubic resampling along one axis.

  `interpolate(mode='bicubic', align_corners=False)` with sizes given: Keys'
  kernel at half-pixel centres, edges repeated.
  """
  a = _CUBIC
  at = (np.arange(out) + 0.5) * size / out - 0.5
  first = np.floor(at).astype(int)
  near = at - first  # distances to the four neighbours: 1 + t, t, 1 - t, 2 - t
  weights = np.zeros((out, size))
  for offset, distance in enumerate((1 + near, near, 1 - near, 2 - near)):
    x = distance
    if offset in (1, 2):
      weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
    else:
      weight = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    column = np.clip(first + offset - 1, 0, size - 1)
    np.add.at(weights, (np.arange(out), column), weight)
  return weights.astype(np.float32)


def positions(table: Array, grid: int, height: int, width: int) -> Array:
  """Embeddings of a class token and height x width patches.

  Args:
    table: [1 + grid * grid, d].
    grid: patches along a side of the table.
    height, width: patches of the image.

  Returns:
    [1 + height * width, d]; interpolated in float32 unless the table fits.
  """
  if height == width == grid:
    return table
  rows, columns = cubic_weights(grid, height), cubic_weights(grid, width)
  square = table[1:].astype(jnp.float32).reshape(grid, grid, -1)
  high = jax.lax.Precision.HIGHEST
  tall = jnp.einsum('ha,abd->hbd', rows, square, precision=high)
  patches = jnp.einsum('wb,hbd->hwd', columns, tall, precision=high)
  patches = patches.reshape(height * width, -1).astype(table.dtype)
  return jnp.concatenate([table[:1], patches])


class Attention(nn.Module):
  """Self-attention over [B, T, d]; every token sees every token."""

  config: Config

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    size = c.hidden_size // c.num_heads

    def heads(name):  # [B, H, T, d]: matmuls then run over contiguous T x d
      y = nn.Dense(c.hidden_size, use_bias=c.qkv_bias, name=name)(x)
      return y.reshape(*y.shape[:-1], c.num_heads, size).swapaxes(-2, -3)

    query, key, value = heads('query'), heads('key'), heads('value')
    scores = (query * size**-0.5) @ key.swapaxes(-1, -2)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
    y = weights.astype(x.dtype) @ value
    y = y.swapaxes(-2, -3).reshape(x.shape)
    return nn.Dense(c.hidden_size, name='output')(y)


def _norm(config: Config, name: str | None = None) -> nn.LayerNorm:
  # Outlier activations of these models make E[x^2] - E[x]^2 inexact.
  return nn.LayerNorm(config.layer_norm_eps, use_fast_variance=False, name=name)


class Block(nn.Module):
  """One pre-norm encoder layer."""

  config: Config

  @nn.compact
  def __call__(self, x: Array) -> Array:
    c = self.config
    y = Attention(c, name='attention')(_norm(c, 'attention_norm')(x))
    x = x + self._scaled(y, 'attention_scale')
    y = _norm(c, 'mlp_norm')(x)
    if c.swiglu:
      y = nn.Dense(2 * c.mlp_size, name='mlp_input')(y)
      gate, up = jnp.split(y, 2, axis=-1)
      y = jax.nn.silu(gate) * up
    else:
      y = nn.Dense(c.mlp_size, name='mlp_input')(y)
      y = _ACTIVATIONS[c.activation](y)
    y = nn.Dense(c.hidden_size, name='mlp_output')(y)
    return x + self._scaled(y, 'mlp_scale')

  def _scaled(self, y: Array, name: str) -> Array:
    if not vit_layouts.LAYOUTS[self.config.model_type].scaled:
      return y
    scale = self.param(name, nn.initializers.ones, (self.config.hidden_size,))
    return y * scale[None, None]


def _embed(config: Config, stem: Params, pixels: Array) -> Array:
  """Class token and patches with their positions, [B, 1 + h w, d]."""
  batch, channels, *image = pixels.shape
  size, d = config.patch_size, config.hidden_size
  if channels != config.channels or min(image) < size:
    raise ValueError(
      f'images are [channels, height, width] = {list(pixels.shape[1:])}; '
      f'expected {config.channels} channels and at least {size} x {size} pixels'
    )
  height, width = (side // size for side in image)  # what is left over is cut
  kernel = stem['patch']['weight'].reshape(d, -1)
  x = pixels[:, :, : height * size, : width * size].astype(kernel.dtype)
  x = x.reshape(batch, channels, height, size, width, size)
  x = x.transpose(0, 2, 4, 1, 3, 5).reshape(batch, height * width, -1)
  x = x @ kernel.T
  if 'bias' in stem['patch']:
    x = x + stem['patch']['bias'][None, None]
  first = jnp.broadcast_to(stem['class'].reshape(1, 1, d), (batch, 1, d))
  table = stem['position'].reshape(-1, d)
  where = positions(table, config.grid, height, width)
  return jnp.concatenate([first, x], axis=1) + where[None]


def family(config: Config) -> Family:
  """The three functions and the key table of one configuration.

  Inputs are `pixels`, normalised, [B, C, H, W] of any size: the position table
  is interpolated as torch does it. Outputs are the last hidden states of the
  class token and the patches, [B, 1 + h w, d]: normalised, but CLIP's not.
  """
  layout = vit_layouts.LAYOUTS[config.model_type]
  block, norm = Block(config), _norm(config)

  def embed(params: Params, inputs: Mapping[str, Array]):
    x = _embed(config, params['stem'], inputs['pixels'])
    if 'norm' in params['stem']:
      x = norm.apply({'params': params['stem']['norm']}, x)
    return x

  def layer(layer_params: Params, carry, layer_info):
    del layer_info
    return block.apply({'params': layer_params}, carry)

  def head(params: Params, carry):
    if layout.normalised:
      return norm.apply({'params': params['final']['norm']}, carry)
    return carry

  return Family(
    name=config.model_type,
    num_layers=config.num_layers,
    embed=embed,
    block=layer,
    head=head,
    layer_info=None,
    keys=_keys(config),
    components=vit_layouts.components(layout, config.swiglu),
    skip=config.skip,
    branches=tuple((part, 0.0) for part in layout.branches),
  )


def _keys(config: Config) -> tuple[Key, ...]:
  layout = vit_layouts.LAYOUTS[config.model_type]
  extras = vit_layouts.extras(layout, config.prefix)
  rows = vit_layouts.rows(layout.outer, config.prefix)
  rows += vit_layouts.rows({m: extras[m] for m in config.extras})
  mlp = vit_layouts.SWIGLU if config.swiglu else layout.mlp
  inner = {**layout.inner, **mlp}
  projections = ('/query/bias', '/key/bias', '/value/bias')
  for i in range(config.num_layers):
    prefix = f'{config.prefix}{layout.layers}.{i}.'
    rows += [
      Key(stored, f'layers/{path}', i, transpose)
      for stored, path, _, transpose in vit_layouts.rows(inner, prefix)
      if config.qkv_bias or not path.endswith(projections)
    ]
  return tuple(rows)
