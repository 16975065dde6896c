"""What checkpoints of vision transformers call their tensors."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from automerge_jax.types import Key

# Stored module -> (path, {stored parameter: leaf}); '' is the module itself.
Table = Mapping[str, tuple[str, Mapping[str, str]]]

_NORM = {'weight': 'scale', 'bias': 'bias'}
_DENSE = {'weight': 'kernel', 'bias': 'bias'}
_PATCH = {'weight': 'weight', 'bias': 'bias'}
_ITSELF = {'': ''}

SWIGLU: Table = {
  'mlp.weights_in': ('mlp_input', _DENSE),
  'mlp.weights_out': ('mlp_output', _DENSE),
}
_MLP: Table = {
  'mlp.fc1': ('mlp_input', _DENSE),
  'mlp.fc2': ('mlp_output', _DENSE),
}
_ATTENTION: Table = {
  'attention.attention.query': ('attention/query', _DENSE),
  'attention.attention.key': ('attention/key', _DENSE),
  'attention.attention.value': ('attention/value', _DENSE),
  'attention.output.dense': ('attention/output', _DENSE),
}
_OUTER: Table = {
  'embeddings.cls_token': ('stem/class', _ITSELF),
  'embeddings.position_embeddings': ('stem/position', _ITSELF),
  'embeddings.patch_embeddings.projection': ('stem/patch', _PATCH),
  'layernorm': ('final/norm', _NORM),
}


class Layout(NamedTuple):
  """The tensors of a `model_type`.

  Attributes:
    prefix: of the encoder's names where another model holds it.
    layers: in front of a layer's number.
    outer: of the encoder, outside its layers.
    inner: of a layer, without its MLP.
    mlp: of a layer's MLP.
    inside: of the encoder, what a checkpoint may have or not.
    beside: beside the encoder, what a checkpoint may have or not.
    projections: parts of names: query, key, value, attention, MLP's input.
    branches: parts of names of what scales what a layer adds.
    activation: where a config does not say.
    scaled: whether a layer scales what it adds.
    normalised: whether the last hidden states are.
  """

  prefix: str
  layers: str
  outer: Table
  inner: Table
  mlp: Table
  inside: Table
  beside: Table
  projections: tuple[str, str, str, str, str]
  branches: tuple[str, ...]
  activation: str = 'gelu'
  scaled: bool = False
  normalised: bool = True


_CLIP = Layout(
  prefix='vision_model.',
  layers='encoder.layers',
  outer={
    'embeddings.class_embedding': ('stem/class', _ITSELF),
    'embeddings.position_embedding.weight': ('stem/position', _ITSELF),
    'embeddings.patch_embedding': ('stem/patch', {'weight': 'weight'}),
    'pre_layrnorm': ('stem/norm', _NORM),
    'post_layernorm': ('final/pooled_norm', _NORM),
  },
  inner={
    'self_attn.q_proj': ('attention/query', _DENSE),
    'self_attn.k_proj': ('attention/key', _DENSE),
    'self_attn.v_proj': ('attention/value', _DENSE),
    'self_attn.out_proj': ('attention/output', _DENSE),
    'layer_norm1': ('attention_norm', _NORM),
    'layer_norm2': ('mlp_norm', _NORM),
  },
  mlp=_MLP,
  inside={},
  beside={
    'visual_projection': ('final/projection', {'weight': 'kernel'}),
    'classifier': ('final/classifier', _DENSE),
  },
  projections=('q_proj', 'k_proj', 'v_proj', 'self_attn', 'fc1'),
  branches=('out_proj', 'fc2'),
  activation='quick_gelu',
  normalised=False,
)

LAYOUTS: dict[str, Layout] = {
  'dinov2': Layout(
    prefix='dinov2.',
    layers='encoder.layer',
    outer=_OUTER,
    inner={
      **_ATTENTION,
      'norm1': ('attention_norm', _NORM),
      'norm2': ('mlp_norm', _NORM),
      'layer_scale1.lambda1': ('attention_scale', _ITSELF),
      'layer_scale2.lambda1': ('mlp_scale', _ITSELF),
    },
    mlp=_MLP,
    inside={'embeddings.mask_token': ('stem/mask_token', _ITSELF)},
    beside={'classifier': ('final/classifier', _DENSE)},
    projections=('query', 'key', 'value', 'attention', 'fc1'),
    branches=('layer_scale',),
    scaled=True,
  ),
  'vit': Layout(
    prefix='vit.',
    layers='encoder.layer',
    outer=_OUTER,
    inner={
      **_ATTENTION,
      'layernorm_before': ('attention_norm', _NORM),
      'layernorm_after': ('mlp_norm', _NORM),
    },
    mlp={
      'intermediate.dense': ('mlp_input', _DENSE),
      'output.dense': ('mlp_output', _DENSE),
    },
    inside={
      'embeddings.mask_token': ('stem/mask_token', _ITSELF),
      'pooler.dense': ('final/pooler', _DENSE),
    },
    beside={'classifier': ('final/classifier', _DENSE)},
    projections=('query', 'key', 'value', 'attention', 'intermediate'),
    branches=('output.dense',),
  ),
  'clip_vision_model': _CLIP,
  'clip': _CLIP,
}

# Of Hugging Face's CLIPVisionConfig: a whole model's file may leave them out.
CLIP_DEFAULTS: dict[str, Any] = {
  'hidden_size': 768,
  'intermediate_size': 3072,
  'num_hidden_layers': 12,
  'num_attention_heads': 12,
  'num_channels': 3,
  'image_size': 224,
  'patch_size': 32,
  'hidden_act': 'quick_gelu',
  'layer_norm_eps': 1e-5,
}
_TEXT_SIDE = ('text_model.', 'text_projection.', 'logit_scale')


def is_skipped(model_type: str, name: str) -> bool:
  """Whether a stored tensor is an integer buffer or of CLIP's text side."""
  if not model_type.startswith('clip'):
    return False
  buffer = name.endswith('embeddings.position_ids')
  return buffer or (model_type == 'clip' and name.startswith(_TEXT_SIDE))


def extras(layout: Layout, prefix: str) -> Table:
  """Modules that a checkpoint may have or not, by whole stored name."""
  inside = {prefix + module: row for module, row in layout.inside.items()}
  return {**inside, **layout.beside}


def join(module: str, part: str) -> str:
  """Stored name of a part of a module."""
  return f'{module}.{part}' if part else module


def rows(table: Table, prefix: str = '') -> list[Key]:
  """Rows of a key table, outside the layers."""
  return [
    Key(
      prefix + join(module, part),
      f'{path}/{leaf}' if leaf else path,
      None,
      leaf == 'kernel',
    )
    for module, (path, leaves) in table.items()
    for part, leaf in leaves.items()
  ]


def components(
  layout: Layout, swiglu: bool
) -> dict[str, tuple[tuple[str, str | None], ...]]:
  """Ways to sort tensors, as in `types.Family`."""
  query, key, value, attention, mlp_input = layout.projections
  stem: list[tuple[str, str | None]] = [('stem', 'embeddings')]
  if 'pre_layrnorm' in layout.outer:
    stem.append(('stem', 'pre_layrnorm'))
  scale = [('scale', 'layer_scale')] if layout.scaled else []
  return {
    'coarse': (
      *stem,
      ('rest', 'norm'),
      ('attention', attention),
      ('mlp', None),  # and layer scale
    ),
    'fine': (
      *stem,
      ('norm', 'norm'),
      *scale,
      ('query', query),
      ('key', key),
      ('value', value),
      ('attention output', attention),
      ('mlp input', 'weights_in' if swiglu else mlp_input),
      ('mlp output', None),
    ),
  }
