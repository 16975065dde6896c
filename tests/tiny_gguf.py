"""Small GGUF files of each architecture, written as llama.cpp's users have."""

import gguf
import numpy as np

WIDTH, HEADS, KV_HEADS, LAYERS, VOCABULARY, INNER = 64, 4, 2, 2, 99, 96


def head_size(architecture):
  """128 of Qwen3, which transformers reads as nothing else."""
  return 128 if architecture == 'qwen3' else WIDTH // HEADS


def _shapes(architecture, tied):
  queries = head_size(architecture) * HEADS
  rows = head_size(architecture) * KV_HEADS
  shapes = {'token_embd.weight': (VOCABULARY, WIDTH)}
  shapes['output_norm.weight'] = (WIDTH,)
  if not tied:
    shapes['output.weight'] = (VOCABULARY, WIDTH)
  block = {
    'attn_norm.weight': (WIDTH,),
    'attn_q.weight': (queries, WIDTH),
    'attn_k.weight': (rows, WIDTH),
    'attn_v.weight': (rows, WIDTH),
    'attn_output.weight': (WIDTH, queries),
    'ffn_norm.weight': (WIDTH,),
    'ffn_gate.weight': (INNER, WIDTH),
    'ffn_up.weight': (INNER, WIDTH),
    'ffn_down.weight': (WIDTH, INNER),
  }
  if architecture == 'qwen2':
    block |= {'attn_q.bias': (queries,), 'attn_k.bias': (rows,)}
    block |= {'attn_v.bias': (rows,)}
  if architecture == 'qwen3':
    for part in ('attn_q_norm', 'attn_k_norm'):
      block[f'{part}.weight'] = (head_size(architecture),)
  for i in range(LAYERS):
    shapes |= {f'blk.{i}.{name}': shape for name, shape in block.items()}
  return shapes


def write(
  path,
  architecture='llama',
  tied=True,
  kind='F32',
  extra=None,
  tensors=None,
  parts=1,
):
  """Writes random tensors (float32 by GGUF name) and returns them.

  Matrices are stored as `kind`; what is returned is what went in.
  """
  rng = np.random.default_rng(0)
  values = {
    name: rng.normal(scale=0.3, size=shape).astype(np.float32)
    for name, shape in _shapes(architecture, tied).items()
  }
  values |= tensors or {}
  writer = gguf.GGUFWriter(path, architecture)
  writer.add_block_count(LAYERS)
  writer.add_context_length(128)
  writer.add_embedding_length(WIDTH)
  writer.add_feed_forward_length(INNER)
  writer.add_head_count(HEADS)
  writer.add_head_count_kv(KV_HEADS)
  writer.add_key_length(head_size(architecture))
  writer.add_value_length(head_size(architecture))
  writer.add_rope_freq_base(5000.0)
  writer.add_layer_norm_rms_eps(1e-6)
  writer.add_vocab_size(VOCABULARY)
  add_tokenizer(writer)
  writer.add_uint16('split.count', parts)
  for key, value in (extra or {}).items():
    writer.add_string(key, value)
  quantised = gguf.GGMLQuantizationType[kind]
  for name, value in values.items():
    if value.ndim == 2 and kind != 'F32':
      data = gguf.quantize(value, quantised)
      writer.add_tensor(name, data, raw_dtype=quantised)
    else:
      writer.add_tensor(name, value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return values


def add_tokenizer(writer, pre='smollm'):
  """Letters and a few merges of them, with three control tokens."""
  letters = [chr(c) for c in range(ord('!'), ord('~') + 1) if chr(c) != '|']
  tokens = ['<|end|>', '<|begin|>', 'Ġ', *letters]
  merges = ['h e', 'l l', 'he ll']
  tokens += ['he', 'll', 'hell']
  writer.add_tokenizer_model('gpt2')
  writer.add_tokenizer_pre(pre)
  writer.add_token_list(tokens)
  writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
  writer.add_token_merges(merges)
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(0)
  writer.add_pad_token_id(0)
  writer.add_add_bos_token(True)
  writer.add_chat_template('{% for m in messages %}{{ m.content }}{% endfor %}')
