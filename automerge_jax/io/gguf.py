"""GGUF files of Llama-like models under their Hugging Face names.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What
differs from Hugging Face's layout: names, the rows of query and key (which
converters to `llama` interleave for their rotary embedding), and blocks of
quantised numbers, which are turned into float32 tensor by tensor.
"""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import gguf
import ml_dtypes
import numpy as np

from automerge_jax.io import atomic, gguf_tokenizer, sharded
from automerge_jax.io.tensors import Checkpoint, TensorInfo

_Kind = gguf.GGMLQuantizationType
_PLAIN = {
  _Kind.F64: np.dtype(np.float64),
  _Kind.F32: np.dtype(np.float32),
  _Kind.F16: np.dtype(np.float16),
  _Kind.BF16: np.dtype(ml_dtypes.bfloat16),
}
_STEM = {
  'token_embd': 'model.embed_tokens',
  'output_norm': 'model.norm',
  'output': 'lm_head',
}
_BLOCK = {
  'attn_norm': 'input_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'attn_q_norm': 'self_attn.q_norm',
  'attn_k_norm': 'self_attn.k_norm',
  'ffn_norm': 'post_attention_layernorm',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}
_NAME = re.compile(r'(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)')
_ROTARY = 'rope_freqs.weight'  # derived from the config, not a weight


class _Architecture(NamedTuple):
  """What is peculiar to a `general.architecture`."""

  model_class: str
  permuted: bool  # rows of query and key are interleaved


_ARCHITECTURES = {
  'llama': _Architecture('LlamaForCausalLM', True),
  'qwen2': _Architecture('Qwen2ForCausalLM', False),
  'qwen3': _Architecture('Qwen3ForCausalLM', False),
}


def open_gguf(path: str | pathlib.Path) -> Checkpoint:
  """Opens a `.gguf` file of a Llama-like model.

  Floating point tensors keep their type; quantised ones are float32.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, or of an architecture that is not known.
  """
  reader = _reader(path)
  architecture = _architecture(reader, path)
  parts = _optional(reader, 'split.count', 1)
  if parts > 1:
    raise ValueError(
      f'{path} is one of {parts} parts; join them first (llama-gguf-split '
      '--merge)'
    )
  heads = _field(reader, path, f'{architecture}.attention.head_count')
  kv_heads = _optional(reader, f'{architecture}.attention.head_count_kv', heads)
  permuted = _ARCHITECTURES[architecture].permuted
  stored = {
    hugging_face_name(tensor.name, str(path)): tensor
    for tensor in reader.tensors
    if tensor.name != _ROTARY
  }
  infos = {
    name: TensorInfo(
      tuple(int(n) for n in reversed(tensor.shape)),
      _PLAIN.get(tensor.tensor_type, np.dtype(np.float32)),
    )
    for name, tensor in stored.items()
  }

  def read(name: str) -> np.ndarray:
    tensor, info = stored[name], infos[name]
    if tensor.tensor_type in _PLAIN:
      array = tensor.data.view(np.ndarray).view(info.dtype)
    else:
      try:
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
      except NotImplementedError as error:
        raise ValueError(
          f'{path} stores {name!r} as {tensor.tensor_type.name}, which cannot '
          'be dequantised; convert it to F16 or Q8_0 first'
        ) from error
    array = array.reshape(info.shape)
    if permuted and '.self_attn.q_proj.' in name:
      array = _unpermute(array, heads)
    if permuted and '.self_attn.k_proj.' in name:
      array = _unpermute(array, kv_heads)
    array.flags.writeable = False
    return array

  return Checkpoint(str(path), infos, read)


def hugging_face_name(name: str, path: str) -> str:
  """Hugging Face's name of a tensor, e.g. of `blk.0.attn_q.weight`.

  Raises:
    ValueError: for one that Llama-like models do not have.
  """
  match = _NAME.fullmatch(name)
  block, part, kind = match.groups() if match else (None, '', '')
  table = _STEM if block is None else _BLOCK
  if part not in table:
    raise ValueError(
      f'{path} has a tensor {name!r}, which no dense Llama-like model has; '
      f'known: {sorted(_STEM)} and, in blk.N, {sorted(_BLOCK)}'
    )
  prefix = '' if block is None else f'model.layers.{block}.'
  return f'{prefix}{table[part]}.{kind}'


def config(path: str | pathlib.Path) -> dict[str, Any]:
  """The Hugging Face `config.json` that a file's metadata amount to.

  Raises:
    ValueError: for a rotary embedding that the metadata do not tell in full.
  """
  reader = _reader(path)
  architecture = _architecture(reader, path)
  names = {tensor.name for tensor in reader.tensors}
  scaling = _optional(reader, f'{architecture}.rope.scaling.type', 'none')
  if scaling != 'none' or _ROTARY in names:
    raise ValueError(
      f'{path} scales its rotary embedding ({scaling}, {_ROTARY}: '
      f'{_ROTARY in names}), and its metadata do not say how in the terms of '
      "Hugging Face; write the model's own config.json beside its tensors"
    )

  def get(key: str) -> Any:
    return _field(reader, path, f'{architecture}.{key}')

  def maybe(key: str, default: Any) -> Any:
    return _optional(reader, f'{architecture}.{key}', default)

  width, heads = get('embedding_length'), get('attention.head_count')
  embedding = next(t for t in reader.tensors if t.name == 'token_embd.weight')
  return {
    'architectures': [_ARCHITECTURES[architecture].model_class],
    'model_type': architecture,
    'vocab_size': int(embedding.shape[1]),
    'hidden_size': width,
    'intermediate_size': get('feed_forward_length'),
    'num_hidden_layers': get('block_count'),
    'num_attention_heads': heads,
    'num_key_value_heads': maybe('attention.head_count_kv', heads),
    'head_dim': maybe('attention.key_length', width // heads),
    'hidden_act': 'silu',
    'max_position_embeddings': get('context_length'),
    'rms_norm_eps': _decimal(get('attention.layer_norm_rms_epsilon')),
    'rope_theta': _decimal(maybe('rope.freq_base', 10000.0)),
    'attention_bias': 'blk.0.attn_q.bias' in names,
    'mlp_bias': 'blk.0.ffn_up.bias' in names,
    'tie_word_embeddings': 'output.weight' not in names,
    'dtype': str(_PLAIN.get(embedding.tensor_type, np.dtype(np.float32))),
  } | gguf_tokenizer.special_ids(_metadata(reader))


def companions(path: str | pathlib.Path) -> dict[str, str]:
  """Texts of a Hugging Face folder's config and tokenizer files, by name.

  Raises:
    ValueError: if the file is damaged or says too little.
  """
  settings = config(path)
  tokenizer, tokenizer_config = gguf_tokenizer.convert(
    _metadata(_reader(path)), settings['max_position_embeddings']
  )
  ids = {k: v for k, v in settings.items() if k.endswith('_token_id')}
  contents = {
    'config.json': settings,
    'generation_config.json': ids,
    'tokenizer_config.json': tokenizer_config,
  }
  return {'tokenizer.json': tokenizer.to_str(pretty=True)} | {
    name: json.dumps(content, indent=2, ensure_ascii=False) + '\n'
    for name, content in contents.items()
  }


def to_hugging_face(
  path: str | pathlib.Path,
  out: str | pathlib.Path,
  max_shard_size: int | str = '5GB',
) -> None:
  """Writes a GGUF file as a Hugging Face folder, whole or not at all.

  Weights, config and a tokenizer with its special tokens and chat template.

  Args:
    path: a `.gguf` file.
    out: new folder.
    max_shard_size: most bytes of tensors in a file.

  Raises:
    FileExistsError: if `out` exists.
    ValueError: if the file is damaged or says too little.
  """
  texts = companions(path)
  with open_gguf(path) as source:
    infos = {name: source.info(name) for name in source.names()}
    needed = sum(info.nbytes for info in infos.values())
    with atomic.folder(out, needed) as folder:
      with sharded.Writer(folder, infos, max_shard_size) as writer:
        for name in infos:
          writer.write(name, source.get(name))
      for filename, text in texts.items():
        (folder / filename).write_text(text, encoding='utf-8')


def _reader(path: str | pathlib.Path) -> gguf.GGUFReader:
  try:
    return gguf.GGUFReader(path)
  except FileNotFoundError:
    raise
  except (ValueError, IndexError, KeyError, OverflowError) as error:
    raise ValueError(
      f'{path} is damaged or no GGUF file ({pathlib.Path(path).stat().st_size} '
      f'bytes; {error}); fetch or write it again'
    ) from error


def _metadata(reader: gguf.GGUFReader) -> Callable[[str, Any], Any]:
  return lambda key, default: _optional(reader, key, default)


def _optional(reader: gguf.GGUFReader, key: str, default: Any) -> Any:
  field = reader.get_field(key)
  return default if field is None else field.contents()


def _field(reader: gguf.GGUFReader, path: str | pathlib.Path, key: str) -> Any:
  field = reader.get_field(key)
  if field is None:
    raise ValueError(
      f'{path} lacks the metadata {key!r}; expected a file that was converted '
      'from a whole model'
    )
  return field.contents()


def _architecture(reader: gguf.GGUFReader, path: str | pathlib.Path) -> str:
  architecture = _field(reader, path, 'general.architecture')
  if architecture not in _ARCHITECTURES:
    raise ValueError(
      f'{path} is of the architecture {architecture!r}, whose layout is not '
      f'known; expected one of {sorted(_ARCHITECTURES)}, or use the '
      "model's safetensors"
    )
  return architecture


def _unpermute(array: np.ndarray, heads: int) -> np.ndarray:
  """Rows of each head from pairs to halves, as Hugging Face rotates them."""
  rows, *rest = array.shape
  pairs = array.reshape(heads, rows // heads // 2, 2, *rest)
  return pairs.swapaxes(1, 2).reshape(array.shape)


def _decimal(value: float) -> float:
  """The shortest decimal number that is this float32, as people wrote it."""
  return float(str(np.float32(value)))
