"""What a Hugging Face `config.json` says of a decoder of Llama's shape."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from automerge_jax.models import rope

ACTIVATIONS = ('silu', 'gelu', 'gelu_pytorch_tanh')
KINDS = ('llama', 'mistral', 'qwen2', 'qwen3', 'gemma', 'gemma2', 'gemma3_text')

_UNIFORM = ('llama', 'mistral', 'gemma')  # all layers see alike


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes and features of a decoder.

  Attributes:
    norm_offset: what is added to a stored norm's weight.
    embedding_scale: whether embeddings are multiplied by sqrt(hidden_size).
    post_norms: whether what a block adds is normed too.
    attention_cap, logit_cap: soft caps, None for none.
    windows: of each layer: how many positions it sees; None for all.
    rope: different rotary embeddings, sorted (name, value) pairs.
    rope_index: of each layer: which of these.
    head: 'own', 'tied' to the embedding, or None.
    prefix: of the stored names of the bare model.
  """

  name: str
  vocab_size: int
  hidden_size: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_size: int
  mlp_size: int
  activation: str
  norm_eps: float
  norm_offset: float
  embedding_scale: bool
  post_norms: bool
  qk_norm: bool
  qkv_bias: bool
  output_bias: bool
  mlp_bias: bool
  attention_scale: float
  attention_cap: float | None
  logit_cap: float | None
  windows: tuple[int | None, ...]
  rope: tuple[tuple[tuple[str, Any], ...], ...]
  rope_index: tuple[int, ...]
  max_tokens: int
  head: str | None
  prefix: str


def config_from_hf(hf: Mapping[str, Any], stored: Sequence[str]) -> Config:
  """Reads a Hugging Face `config.json`; left-out entries get HF's defaults.

  Args:
    hf: the parsed file.
    stored: names of the checkpoint's tensors, which tell whether it is a bare
      model and whether it has a head of its own.

  Raises:
    ValueError: naming a feature that is not implemented or sizes that do not
      fit.
  """
  full = _filled(hf)
  name, layers = full.model_type, full.num_hidden_layers
  gemma = name.startswith('gemma')
  heads, kv_heads = full.num_attention_heads, full.num_key_value_heads
  size = getattr(full, 'head_dim', None) or full.hidden_size // heads
  if heads % kv_heads:
    raise ValueError(
      f'config has num_attention_heads={heads}, which is no multiple of '
      f'num_key_value_heads={kv_heads}'
    )
  activation = _own(full, 'hidden_activation', None) or full.hidden_act
  _only('hidden_act', activation, ACTIVATIONS)
  _only(
    'use_bidirectional_attention',
    getattr(full, 'use_bidirectional_attention', None) or False,
    (False,),
  )
  if name == 'gemma3_text':  # transformers reads it and leaves it out
    _only('attn_logit_softcapping', full.attn_logit_softcapping, (None,))
  tables, index = _rope(full)
  biased = _own(full, 'attention_bias', False)
  scalar = _own(full, 'query_pre_attn_scalar', size)
  head = 'tied' if full.tie_word_embeddings else None
  return Config(
    name=name,
    vocab_size=full.vocab_size,
    hidden_size=full.hidden_size,
    num_layers=layers,
    num_heads=heads,
    num_kv_heads=kv_heads,
    head_size=size,
    mlp_size=full.intermediate_size,
    activation=activation,
    norm_eps=full.rms_norm_eps,
    norm_offset=1.0 if gemma else 0.0,
    embedding_scale=gemma,
    post_norms=name in ('gemma2', 'gemma3_text'),
    qk_norm=name in ('qwen3', 'gemma3_text'),
    qkv_bias=biased or name == 'qwen2',
    output_bias=biased,
    mlp_bias=_own(full, 'mlp_bias', False),
    attention_scale=scalar**-0.5,
    attention_cap=_own(full, 'attn_logit_softcapping', None),
    logit_cap=_own(full, 'final_logit_softcapping', None),
    windows=_windows(full),
    rope=tables,
    rope_index=index,
    max_tokens=full.max_position_embeddings,
    head='own' if 'lm_head.weight' in stored else head,
    prefix='model.' if any(n.startswith('model.') for n in stored) else '',
  )


def _filled(hf: Mapping[str, Any]) -> Any:
  """The config with the defaults of its model type."""
  from huggingface_hub.errors import StrictDataclassError
  from transformers import AutoConfig  # takes a second

  kind = str(hf.get('model_type'))
  _only('model_type', kind, KINDS)
  _only('quantization_config', hf.get('quantization_config'), (None,))
  if kind in _UNIFORM:
    _only('layer_types', hf.get('layer_types'), (None,))
  # A copy: what is nested gets its defaults in place.
  entries = copy.deepcopy({k: v for k, v in hf.items() if k != 'model_type'})
  try:
    return AutoConfig.for_model(kind, **entries)
  except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
    reason = error.__cause__ or error
    raise ValueError(f'config of {kind!r} is not valid: {reason}') from error


def _own(full: Any, name: str, default: Any) -> Any:
  """An entry, unless it is foreign to the model type, which then ignores it."""
  own = {field.name for field in dataclasses.fields(full)}
  return getattr(full, name) if name in own else default


def _only(name: str, value: Any, known: Sequence[Any]) -> None:
  if value not in known:
    raise ValueError(f'config has {name}={value!r}; implemented: {list(known)}')


def _windows(full: Any) -> tuple[int | None, ...]:
  """Of each layer."""
  count = full.num_hidden_layers
  if full.model_type in ('llama', 'gemma'):
    return (None,) * count
  if full.model_type in _UNIFORM:
    return (full.sliding_window,) * count
  types = full.layer_types
  if len(types) != count:
    raise ValueError(
      f'config has {len(types)} layer_types and num_hidden_layers={count}'
    )
  for kind in types:
    _only('layer_types', kind, ('sliding_attention', 'full_attention'))
  sliding = full.sliding_window
  return tuple(sliding if t == 'sliding_attention' else None for t in types)


def _rope(full: Any) -> tuple[tuple, tuple[int, ...]]:
  """Different rotary embeddings, and which of them each layer uses."""
  found = full.rope_parameters
  if full.model_type == 'gemma3_text':
    kinds = ('full_attention', 'sliding_attention')
    tables = [found[kind] for kind in kinds]
    index = tuple(kinds.index(kind) for kind in full.layer_types)
  else:
    tables, index = [found], (0,) * full.num_hidden_layers
  for table in tables:
    rope.check(table)
  return tuple(tuple(sorted(table.items())) for table in tables), index
