"""Key table of decoders of Llama's shape."""

from automerge_jax.models.llama_config import Config
from automerge_jax.types import Key

COMPONENTS = {
  'coarse': (
    ('stem', 'embed_tokens'),
    ('stem', 'lm_head'),
    ('rest', 'norm'),
    ('attention', 'self_attn'),
    ('mlp', None),
  ),
  'fine': (
    ('stem', 'embed_tokens'),
    ('stem', 'lm_head'),
    ('norm', 'norm'),
    ('query', 'q_proj'),
    ('key', 'k_proj'),
    ('value', 'v_proj'),
    ('attention output', 'o_proj'),
    ('mlp input', 'gate_proj'),
    ('mlp input', 'up_proj'),
    ('mlp output', None),
  ),
}


def keys(config: Config) -> tuple[Key, ...]:
  """One row a stored tensor."""
  rows = [
    Key('embed_tokens.weight', 'stem/word/embedding', None, False),
    Key('norm.weight', 'final/norm/scale', None, False),
  ]
  for i in range(config.num_layers):
    rows += [
      Key(f'layers.{i}.{stored}', f'layers/{path}', i, path.endswith('kernel'))
      for stored, path in _layer(config).items()
    ]
  rows = [row._replace(stored=config.prefix + row.stored) for row in rows]
  if config.head == 'own':
    rows.append(Key('lm_head.weight', 'final/head/kernel', None, True))
  return tuple(rows)


def branches(config: Config) -> tuple[tuple[str, float], ...]:
  """What scales what a layer adds: see `Family.branches`."""
  if config.post_norms:  # which undo a projection's scale
    return (
      ('post_attention_layernorm', config.norm_offset),
      ('post_feedforward_layernorm', config.norm_offset),
    )
  return (('o_proj', 0.0), ('down_proj', 0.0))


def skip(config: Config) -> tuple[str, ...]:
  """Buffers that old checkpoints hold and the config says as well."""
  return tuple(
    f'{config.prefix}layers.{i}.self_attn.rotary_emb.inv_freq'
    for i in range(config.num_layers)
  )


def _layer(config: Config) -> dict[str, str]:
  """Leaf by stored name, within a layer."""
  if config.post_norms:
    norms = {
      'input_layernorm': 'attention_norm',
      'post_attention_layernorm': 'attention_post_norm',
      'pre_feedforward_layernorm': 'mlp_norm',
      'post_feedforward_layernorm': 'mlp_post_norm',
    }
  else:
    norms = {
      'input_layernorm': 'attention_norm',
      'post_attention_layernorm': 'mlp_norm',
    }
  if config.qk_norm:
    norms |= {
      'self_attn.q_norm': 'attention/query_norm',
      'self_attn.k_norm': 'attention/key_norm',
    }
  dense = {
    'self_attn.q_proj': ('attention/query', config.qkv_bias),
    'self_attn.k_proj': ('attention/key', config.qkv_bias),
    'self_attn.v_proj': ('attention/value', config.qkv_bias),
    'self_attn.o_proj': ('attention/output', config.output_bias),
    'mlp.gate_proj': ('mlp/gate', config.mlp_bias),
    'mlp.up_proj': ('mlp/up', config.mlp_bias),
    'mlp.down_proj': ('mlp/down', config.mlp_bias),
  }
  rows = {f'{stored}.weight': f'{path}/scale' for stored, path in norms.items()}
  for stored, (path, bias) in dense.items():
    rows[f'{stored}.weight'] = f'{path}/kernel'
    if bias:
      rows[f'{stored}.bias'] = f'{path}/bias'
  return rows
