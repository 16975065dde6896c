"""What a T5 checkpoint is: sizes from its config, layout from its names."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from automerge_jax.models import activations
from automerge_jax.types import Key

_SHARED = (
  'shared.weight',
  'encoder.embed_tokens.weight',
  'decoder.embed_tokens.weight',
)
_HEAD = 'lm_head.weight'
# Stored by the first checkpoints; cross attention has no relative bias.
_IDLE = 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'

COMPONENTS = {
  'coarse': (
    ('stem', 'shared'),
    ('stem', 'embed_tokens'),
    ('stem', 'relative_attention_bias'),
    ('rest', 'layer_norm'),
    ('attention', 'Attention'),
    ('mlp', None),
  ),
  'fine': (
    ('stem', 'shared'),
    ('stem', 'embed_tokens'),
    ('stem', 'relative_attention_bias'),
    ('norm', 'layer_norm'),
    ('query', 'Attention.q.'),
    ('key', 'Attention.k.'),
    ('value', 'Attention.v.'),
    ('attention output', 'Attention.o.'),
    ('mlp input', '.wi'),
    ('mlp output', None),
  ),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of a T5 model and what its checkpoint stores.

  Attributes:
    gated: whether the MLP multiplies two projections.
    scaled: whether the head takes hidden states times hidden_size**-0.5.
    head: 'own', 'tied' (to the embedding) or None.
    tables: stored names of the one word embedding.
    idle: whether a relative bias of cross attention is stored, unused.
  """

  vocab_size: int
  hidden_size: int
  head_size: int
  num_heads: int
  mlp_size: int
  encoder_layers: int
  decoder_layers: int
  buckets: int
  max_distance: int
  norm_eps: float
  activation: str
  gated: bool
  scaled: bool
  head: str | None
  tables: tuple[str, ...]
  idle: bool


_ENTRIES = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'd_model',
  'head_size': 'd_kv',
  'num_heads': 'num_heads',
  'mlp_size': 'd_ff',
  'encoder_layers': 'num_layers',
}


def config_from_hf(hf: Mapping[str, Any], stored: Sequence[str]) -> Config:
  """Reads a Hugging Face `config.json`.

  Args:
    hf: the parsed file.
    stored: names of the checkpoint's tensors.

  Raises:
    ValueError: naming a feature that is not implemented, or a missing entry.
  """
  missing = sorted(set(_ENTRIES.values()) - set(hf))
  if missing:
    raise ValueError(f'T5 config lacks the entries {missing}')
  for entry, value in {'is_encoder_decoder': True, 'is_decoder': False}.items():
    if hf.get(entry, value) != value:
      raise ValueError(
        f'T5 config has {entry}={hf[entry]!r}; only {value!r} is implemented'
      )
  wanted = hf.get('feed_forward_proj', 'relu')
  gate, _, name = wanted.rpartition('-')
  if gate not in ('', 'gated'):
    raise ValueError(
      f"T5 config has feed_forward_proj={wanted!r}; expected 'ACTIVATION' or "
      "'gated-ACTIVATION'"
    )
  if name not in activations.ACTIVATIONS:
    activations.check(wanted, 'feed_forward_proj', 'T5')
  if not any(name.startswith('decoder.') for name in stored):
    raise ValueError(
      'the checkpoint has no decoder; only whole T5 models are implemented'
    )
  # The first models scaled what their tied head gets; newer configs say it.
  scaled = hf.get('scale_decoder_outputs')
  if scaled is None:
    scaled = hf.get('tie_word_embeddings') is not False
  # Without a head T5Model and a model with a tied one are stored alike.
  bare = set(hf.get('architectures') or ()) == {'T5Model'}
  return Config(
    **{field: hf[entry] for field, entry in _ENTRIES.items()},
    decoder_layers=hf.get('num_decoder_layers') or hf['num_layers'],
    buckets=hf.get('relative_attention_num_buckets', 32),
    max_distance=hf.get('relative_attention_max_distance', 128),
    norm_eps=hf.get('layer_norm_epsilon', 1e-6),
    # Google's gated models were trained with the approximation.
    activation='gelu_new' if wanted == 'gated-gelu' else name,
    gated=gate == 'gated',
    scaled=scaled,
    head='own' if _HEAD in stored else None if bare else 'tied',
    tables=tuple(n for n in _SHARED if n in stored) or _SHARED[:1],
    idle=_IDLE in stored,
  )


def keys(config: Config) -> tuple[Key, ...]:
  """The key table; the stored copies of the embedding are one leaf."""
  c = config
  rows = [Key(n, 'stem/word/embedding', None, False) for n in c.tables]
  for stack, depth in (
    ('encoder', c.encoder_layers),
    ('decoder', c.decoder_layers),
  ):
    rows.append(
      Key(
        f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
        f'stem/{stack}_bias/embedding',
        None,
        False,
      )
    )
    rows.append(
      Key(
        f'{stack}.final_layer_norm.weight',
        f'final/{stack}_norm/scale',
        None,
        False,
      )
    )
    rows += [
      Key(
        f'{stack}.block.{i}.layer.{stored}.weight',
        f'layers/{stack}/{path}',
        i,
        path.endswith('kernel'),
      )
      for i in range(depth)
      for stored, path in _layer(c, stack).items()
    ]
  if c.idle:
    rows.append(Key(_IDLE, f'final/{_IDLE}', None, False))
  if c.head == 'own':
    rows.append(Key(_HEAD, 'final/head/kernel', None, True))
  return tuple(rows)


def _layer(config: Config, stack: str) -> dict[str, str]:
  """Stored names within a block's `layer`, and leaves."""
  linear = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'output'}
  parts = [('SelfAttention', 'attention')]
  if stack == 'decoder':
    parts.append(('EncDecAttention', 'cross'))
  found = {}
  for i, (name, path) in enumerate(parts):
    found[f'{i}.layer_norm'] = f'{path}_norm/scale'
    for short, leaf in linear.items():
      found[f'{i}.{name}.{short}'] = f'{path}/{leaf}/kernel'
  i = len(parts)
  found[f'{i}.layer_norm'] = 'mlp_norm/scale'
  inputs = {'wi': 'input'}
  if config.gated:
    inputs = {'wi_0': 'gate', 'wi_1': 'input'}
  for short, leaf in (inputs | {'wo': 'output'}).items():
    found[f'{i}.DenseReluDense.{short}'] = f'mlp/{leaf}/kernel'
  return found
