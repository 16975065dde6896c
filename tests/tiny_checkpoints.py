"""Tiny checkpoints of Llama and GPT-2, as their folders stand on disk.

Drawn by numpy alone, so that an environment with a peer makes the same ones.
"""

import hashlib
import json
import pathlib
import zlib

import numpy as np

VOCABULARY, WIDTH, INNER = 20, 8, 12
SPREAD = 0.1  # of fine-tunes about their base, whose weights have about 0.5
WORDS = 'abcdefghijklmnopq'
# Folder: (base or none, architecture, layers, options).
MODELS = {
  'base': (None, 'llama', 4, ()),
  'a': ('base', 'llama', 4, ()),
  'b': ('base', 'llama', 4, ('sharded',)),
  'c': ('base', 'llama', 4, ()),
  'shallow': (None, 'llama', 3, ()),
  'tied': (None, 'llama', 2, ('tied',)),
  'tied_a': ('tied', 'llama', 2, ('tied',)),
  'tied_b': ('tied', 'llama', 2, ('tied', 'sharded')),
  'untied': ('tied', 'llama', 2, ()),
  'half': (None, 'llama', 2, ('bfloat16',)),
  'half_a': ('half', 'llama', 2, ('bfloat16',)),
  'half_b': ('half', 'llama', 2, ('bfloat16', 'sharded')),
  'gpt2': (None, 'gpt2', 2, ('tied',)),
  'gpt2_a': ('gpt2', 'gpt2', 2, ('tied',)),
  'gpt2_b': ('gpt2', 'gpt2', 2, ('tied',)),
  'words': (None, 'llama', 2, ('tokenizer=xyz',)),
  'words_a': ('words', 'llama', 2, ('tokenizer=zuv',)),
  'words_b': ('words', 'llama', 2, ('tokenizer=uxwvst',)),
}
ADAPTER = 'adapter'  # for `base`
EXAMPLES = {  # models of the recipes in configs/recipes
  f'models/{name}': ('models/base' if name != 'base' else None, 'llama', 32, ())
  for name in ('base', 'chat', 'code', 'math')
}


def llama(layers: int, options: tuple[str, ...]) -> dict[str, tuple]:
  """Shapes by stored name."""
  rows = VOCABULARY
  for option in options:
    if option.startswith('tokenizer='):
      rows = len(tokens(option.removeprefix('tokenizer=')))
  shapes: dict[str, tuple] = {'model.embed_tokens.weight': (rows, WIDTH)}
  for layer in range(layers):
    parts = {
      'self_attn.q_proj': (WIDTH, WIDTH),
      'self_attn.k_proj': (WIDTH // 2, WIDTH),
      'self_attn.v_proj': (WIDTH // 2, WIDTH),
      'self_attn.o_proj': (WIDTH, WIDTH),
      'mlp.gate_proj': (INNER, WIDTH),
      'mlp.up_proj': (INNER, WIDTH),
      'mlp.down_proj': (WIDTH, INNER),
      'input_layernorm': (WIDTH,),
      'post_attention_layernorm': (WIDTH,),
    }
    shapes |= {
      f'model.layers.{layer}.{part}.weight': shape
      for part, shape in parts.items()
    }
  shapes['model.norm.weight'] = (WIDTH,)
  if 'tied' not in options:
    shapes['lm_head.weight'] = (rows, WIDTH)
  return shapes


def gpt2(layers: int, options: tuple[str, ...]) -> dict[str, tuple]:
  """Shapes by stored name."""
  del options
  shapes: dict[str, tuple] = {
    'transformer.wte.weight': (VOCABULARY, WIDTH),
    'transformer.wpe.weight': (16, WIDTH),
  }
  for layer in range(layers):
    parts = {
      'ln_1.weight': (WIDTH,),
      'ln_1.bias': (WIDTH,),
      'attn.c_attn.weight': (WIDTH, 3 * WIDTH),
      'attn.c_attn.bias': (3 * WIDTH,),
      'attn.c_proj.weight': (WIDTH, WIDTH),
      'attn.c_proj.bias': (WIDTH,),
      'ln_2.weight': (WIDTH,),
      'ln_2.bias': (WIDTH,),
      'mlp.c_fc.weight': (WIDTH, 4 * WIDTH),
      'mlp.c_fc.bias': (4 * WIDTH,),
      'mlp.c_proj.weight': (4 * WIDTH, WIDTH),
      'mlp.c_proj.bias': (WIDTH,),
    }
    shapes |= {f'transformer.h.{layer}.{k}': s for k, s in parts.items()}
  return shapes | {
    'transformer.ln_f.weight': (WIDTH,),
    'transformer.ln_f.bias': (WIDTH,),
  }


_SHAPES = {'llama': llama, 'gpt2': gpt2}


def config(architecture: str, layers: int, options: tuple[str, ...]) -> dict:
  """config.json of a model."""
  rows = next(iter(_SHAPES[architecture](layers, options).values()))[0]
  common = {
    'model_type': architecture,
    'vocab_size': rows,
    'tie_word_embeddings': 'tied' in options,
    'dtype': 'bfloat16' if 'bfloat16' in options else 'float32',
    'bos_token_id': 0,
    'eos_token_id': 1,
  }
  if architecture == 'gpt2':
    return common | {
      'architectures': ['GPT2LMHeadModel'],
      'n_embd': WIDTH,
      'n_head': 2,
      'n_layer': layers,
      'n_positions': 16,
    }
  return common | {
    'architectures': ['LlamaForCausalLM'],
    'hidden_size': WIDTH,
    'intermediate_size': INNER,
    'num_hidden_layers': layers,
    'num_attention_heads': 2,
    'num_key_value_heads': 1,
    'head_dim': WIDTH // 2,
    'max_position_embeddings': 32,
  }


def tokens(more: str) -> list[str]:
  """The vocabulary of a model with a few letters of its own."""
  return ['<s>', '</s>', *WORDS, *more]


def build(seed: int, models: dict) -> dict[str, dict[str, np.ndarray]]:
  """Float32 tensors of each model, by stored name."""
  found: dict[str, dict[str, np.ndarray]] = {}
  for model, (base, architecture, layers, options) in models.items():
    draw = np.random.default_rng([seed, zlib.crc32(model.encode())])
    shapes = _SHAPES[architecture](layers, options)
    found[model] = {}
    for name, shape in shapes.items():
      tensor = _noise(draw, shape)
      if base is not None and name in found[base]:
        start = found[base][name]
        tensor = np.float32(SPREAD) * tensor
        shared = min(len(start), len(tensor))
        tensor[:shared] += start[:shared]
      else:
        tensor *= np.float32(0.5)
      if 'bfloat16' in options:
        tensor.view(np.uint32)[...] &= 0xFFFF0000
      found[model][name] = tensor
  return found


def _noise(draw: np.random.Generator, shape: tuple) -> np.ndarray:
  """About normal, of variance 1; the same bits on every machine."""
  uniform = [draw.random(shape) for _ in range(4)]
  total = uniform[0] + uniform[1] + uniform[2] + uniform[3]
  return (np.sqrt(3.0) * (total - 2.0)).astype(np.float32)


def digest(built: dict[str, dict[str, np.ndarray]]) -> str:
  """SHA-256 of all tensors, to know that two environments drew the same."""
  found = hashlib.sha256()
  for tensors in built.values():
    for tensor in tensors.values():
      found.update(tensor.tobytes())
  return found.hexdigest()


def write(folder: pathlib.Path, seed: int, models: dict) -> str:
  """Writes every model below a folder; returns the digest."""
  built = build(seed, models)
  for model, (_, architecture, layers, options) in models.items():
    own = folder / model
    own.mkdir(parents=True)
    text = json.dumps(config(architecture, layers, options))
    (own / 'config.json').write_text(text)
    for option in options:
      if option.startswith('tokenizer='):
        _write_tokenizer(own, tokens(option.removeprefix('tokenizer=')))
    half = 'bfloat16' in options
    if 'sharded' in options:
      _write_shards(own, built[model], half)
    else:
      write_tensors(own / 'model.safetensors', built[model], half)
  if 'base' in models:
    _write_adapter(folder / ADAPTER, seed, built['base'])
  return digest(built)


def write_tensors(
  path: pathlib.Path, tensors: dict[str, np.ndarray], half: bool = False
) -> None:
  """A safetensors file of float32 or bfloat16."""
  header: dict = {'__metadata__': {'format': 'pt'}}
  parts, start = [], 0
  for name, tensor in tensors.items():
    little = tensor.astype('<f4')
    if half:
      little = (little.view('<u4') >> 16).astype('<u2')
    parts.append(little.tobytes())
    header[name] = {
      'dtype': 'BF16' if half else 'F32',
      'shape': list(tensor.shape),
      'data_offsets': [start, start + len(parts[-1])],
    }
    start += len(parts[-1])
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)
  path.write_bytes(len(text).to_bytes(8, 'little') + text + b''.join(parts))


def _write_shards(folder, tensors, half):
  names = list(tensors)
  places = {}
  for i in range(3):
    file = f'model-{i + 1:05d}-of-00003.safetensors'
    own = {name: tensors[name] for name in names[i::3]}
    write_tensors(folder / file, own, half)
    places |= dict.fromkeys(own, file)
  size = sum(t.size for t in tensors.values()) * (2 if half else 4)
  index = {'metadata': {'total_size': size}, 'weight_map': places}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))


def _write_tokenizer(folder, vocabulary):
  special = [
    {
      'id': i,
      'content': token,
      'single_word': False,
      'lstrip': False,
      'rstrip': False,
      'normalized': False,
      'special': True,
    }
    for i, token in enumerate(vocabulary[:2])
  ]
  model = {
    'type': 'BPE',
    'dropout': None,
    'unk_token': None,
    'continuing_subword_prefix': None,
    'end_of_word_suffix': None,
    'fuse_unk': False,
    'byte_fallback': False,
    'vocab': {token: i for i, token in enumerate(vocabulary)},
    'merges': [],
  }
  content = {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': special,
    'normalizer': None,
    'pre_tokenizer': None,
    'post_processor': None,
    'decoder': None,
    'model': model,
  }
  (folder / 'tokenizer.json').write_text(json.dumps(content))
  stated = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'bos_token': '<s>',
    'eos_token': '</s>',
  }
  (folder / 'tokenizer_config.json').write_text(json.dumps(stated))


def _write_adapter(folder, seed, base):
  folder.mkdir()
  draw = np.random.default_rng([seed, 1])
  tensors = {}
  for name, tensor in base.items():
    if 'q_proj' in name or 'down_proj' in name:
      module = f'base_model.model.{name.removesuffix(".weight")}'
      rows, columns = tensor.shape
      pair = {'A': (2, columns), 'B': (rows, 2)}
      tensors |= {
        f'{module}.lora_{side}.weight': np.float32(0.3) * _noise(draw, shape)
        for side, shape in pair.items()
      }
  write_tensors(folder / 'adapter_model.safetensors', tensors)
  stated = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': 'base',
    'r': 2,
    'lora_alpha': 3,
    'lora_dropout': 0.0,
    'bias': 'none',
    'fan_in_fan_out': False,
    'target_modules': ['q_proj', 'down_proj'],
  }
  (folder / 'adapter_config.json').write_text(json.dumps(stated))
