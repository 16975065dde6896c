"""Vocabularies aligned by mergekit 0.1.5; runs in .venv-peers.

python vocabulary_golden.py writes vocabulary_mergekit_0.1.5.npz beside it:
the tokenizers and embeddings of small models; for each case what is merged with
WEIGHTS, and mergekit's vocabulary and embeddings; what its chat templates make
of conversations.
"""

import json
import os
import pathlib
import tempfile
from unittest import mock

import jinja2.sandbox
import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import (
  AddedToken,
  Tokenizer,
  decoders,
  models,
  pre_tokenizers,
  trainers,
)

EMBED, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'
WIDTH = 4
SPECIAL = ['<unk>', '<s>', '</s>']
START, END = '<|im_start|>', '<|im_end|>'
TEMPLATES = ('alpaca', 'chatml', 'llama3', 'mistral', 'exaone')

_TURNS = {
  'S': {'role': 'system', 'content': 'Be kind.'},
  'U': {'role': 'user', 'content': 'How are you?'},
  'A': {'role': 'assistant', 'content': 'Very well.\nAnd you?'},
}
CONVERSATIONS = [[_TURNS[t] for t in c] for c in ('U', 'UA', 'SU', 'SUAU')]

# Case: (base, models, `tokenizer`).
_ZERO = {'kind': 'zero'}
_TOKENS = {
  START: {'source': 'c'},
  END: {
    'source': {'kind': 'model_token', 'model': 'a', 'token': '</s>'},
    'force': True,
  },
  '<pad>': {'source': _ZERO},
  'a': {'source': 'b', 'force': True},
  '<unk>': {'source': _ZERO, 'force': True},
  '▁zoo': {'source': {'kind': 'model_token', 'model': 'c', 'token_id': 50}},
  '<|new|>': {'source': _ZERO},
}
_END_OF_B = {END: {'source': 'b'}}
CASES = {
  'union': ('a', 'a b c', {'source': 'union'}),
  'union_from_b': ('b', 'a b c', {'source': 'union'}),
  'union_from_c': ('c', 'a b c', {'source': 'union'}),
  'union_without_base': (None, 'a b c', {'source': 'union'}),
  'union_padded': ('a', 'a b c', {'source': 'union', 'pad_to_multiple_of': 64}),
  'union_by_default': ('a', 'a b', {}),
  'base': ('a', 'a b c', {'source': 'base'}),
  'base_padded': ('c', 'a b c', {'source': 'base', 'pad_to_multiple_of': 16}),
  'source': ('a', 'a b c', {'source': 'b'}),
  'source_without_base': (None, 'a b c', {'source': 'b'}),
  'source_padded': ('a', 'a b c', {'source': 'c', 'pad_to_multiple_of': 56}),
  'source_not_merged': ('a', 'a b', {'source': 'c'}),
  'tokens': ('a', 'a b c', {'source': 'union', 'tokens': _TOKENS}),
  'spare_rows_same': ('c', 'c d', {'source': 'base'}),
  'spare_rows_padded': ('c', 'c d', {'pad_to_multiple_of': 64}),
  'token_into_spare_rows': (
    'd',
    'd b',
    {'source': 'base', 'tokens': _END_OF_B},
  ),
  'token_by_source': ('b', 'b d', {'source': 'd', 'tokens': _END_OF_B}),
  'other_ids': ('f', 'f a', {'source': 'union'}),
  'other_ids_of_base': ('a', 'a f', {'source': 'f'}),
  'added_only': ('a', 'a g', {'source': 'union'}),
  'added_kinds': ('g', 'g h', {'source': 'union'}),
  'word_piece': ('w', 'w x', {'source': 'union'}),
  'unigram': ('u', 'u v', {'source': 'union'}),
  'bfloat16': ('ah', 'ah bh', {'source': 'union', 'pad_to_multiple_of': 64}),
}
WEIGHTS = (0.6, 0.3, -0.2)


def _bpe(lines: list[str], special: list[str], unknown='<unk>') -> Tokenizer:
  tokenizer = Tokenizer(models.BPE(unk_token=unknown))
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Metaspace()
  trainer = trainers.BpeTrainer(
    vocab_size=42, special_tokens=special, show_progress=False
  )
  tokenizer.train_from_iterator(lines, trainer)
  return tokenizer


def _others(kind: str, lines: list[str]) -> Tokenizer:
  if kind == 'word_piece':
    tokenizer = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(
      vocab_size=36, special_tokens=['[UNK]', '[PAD]'], show_progress=False
    )
  else:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
      vocab_size=30,
      special_tokens=SPECIAL,
      unk_token='<unk>',
      show_progress=False,
    )
  tokenizer.train_from_iterator(lines, trainer)
  return tokenizer


def build(seed: int) -> dict[str, tuple[Tokenizer, dict[str, np.ndarray]]]:
  """Tokenizer, embedding and head of each model, by its name in the cases."""
  random = np.random.default_rng(seed)
  words = 'cat sat mat rat ate hat dog dug fog hog zoo zip van win want west'
  words = np.array((words + ' can dig went a the and in on at').split())
  texts = [
    [' '.join(random.choice(words, 6)) for _ in range(3)] for _ in range(3)
  ]
  one, two, three = ([*t, 'a dog in the zoo'] for t in texts)
  made = {
    'a': _bpe([*texts[0], 'the cat and a rat'], SPECIAL),
    'b': _bpe(two, SPECIAL),
    'c': _bpe(three, SPECIAL),
    'd': _bpe(three, SPECIAL),
    'f': _bpe(three, ['<pad>', '<bos>', '<u>', '</s>'], '<u>'),
    'g': _bpe([*texts[0], 'the cat and a rat'], SPECIAL),
    'h': _bpe([*texts[0], 'the cat and a rat'], SPECIAL),
    'w': _others('word_piece', one),
    'x': _others('word_piece', three),
    'u': _others('unigram', one),
    'v': _others('unigram', three),
  }
  made['b'].add_special_tokens([START, END])
  made['c'].add_special_tokens([START, '<pad>'])
  made['d'].add_special_tokens([START, '<pad>'])
  made['g'].add_special_tokens([START])
  made['h'].add_tokens([AddedToken(START, lstrip=True), AddedToken(' hello')])
  made['ah'], made['bh'] = made['a'], made['b']
  out = {}
  for name, tokenizer in made.items():
    rows = {'c': 56, 'd': 56}.get(name, tokenizer.get_vocab_size())
    tensors = {
      key: random.standard_normal((rows, WIDTH)).astype(np.float32)
      for key in (EMBED, HEAD)
    }
    if name.endswith('h') and len(name) == 2:  # values that bfloat16 holds
      for value in tensors.values():
        value.view(np.uint32)[...] &= 0xFFFF0000
    out[name] = tokenizer, tensors
  return out


def _write(folder: pathlib.Path, tokenizer: Tokenizer, tensors, half: bool):
  folder.mkdir(parents=True)
  tokenizer.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(
    json.dumps({'tokenizer_class': 'PreTrainedTokenizerFast'})
  )
  config = {
    'architectures': ['LlamaForCausalLM'],
    'model_type': 'llama',
    'hidden_size': WIDTH,
    'intermediate_size': WIDTH,
    'num_hidden_layers': 1,
    'num_attention_heads': 1,
    'vocab_size': len(tensors[EMBED]),
    'tie_word_embeddings': False,
  }
  (folder / 'config.json').write_text(json.dumps(config))
  tensors = dict(tensors)
  for name in ('input_layernorm', 'post_attention_layernorm'):
    tensors[f'model.layers.0.{name}.weight'] = np.ones(WIDTH, np.float32)
  tensors['model.norm.weight'] = np.ones(WIDTH, np.float32)
  for name in [f'self_attn.{k}' for k in 'qkvo'] + [
    f'mlp.{k}' for k in ('gate', 'up', 'down')
  ]:
    tensors[f'model.layers.0.{name}_proj.weight'] = np.ones(
      (WIDTH, WIDTH), np.float32
    )
  dtype = torch.bfloat16 if half else torch.float32
  stored = {k: torch.from_numpy(v).to(dtype) for k, v in tensors.items()}
  save_file(stored, folder / 'model.safetensors', metadata={'format': 'pt'})


def _in(folder: pathlib.Path, tokenizer: dict) -> dict:
  """The `tokenizer` of a recipe with models at their places."""

  def at(value):
    if isinstance(value, dict):
      return {k: at(v) for k, v in value.items()}
    return str(folder / value) if (folder / str(value)).is_dir() else value

  tokens = {
    token: {k: at(v) for k, v in content.items()}
    for token, content in tokenizer.get('tokens', {}).items()
  }
  out = {k: at(v) for k, v in tokenizer.items() if k != 'tokens'}
  return out | ({'tokens': tokens} if tokens else {})


def _merge(recipe: dict, out: pathlib.Path) -> None:
  from mergekit.config import MergeConfiguration
  from mergekit.merge import run_merge
  from mergekit.options import MergeOptions

  run_merge(
    MergeConfiguration.model_validate(yaml.safe_load(yaml.dump(recipe))),
    str(out),
    MergeOptions(copy_tokenizer=True, quiet=True),
  )


def _recipe(folder: pathlib.Path, base: str | None, names: list[str]) -> dict:
  recipe = {
    'merge_method': 'linear',
    'parameters': {'normalize': False},
    'dtype': 'float32',
    'models': [
      {'model': str(folder / name), 'parameters': {'weight': weight}}
      for name, weight in zip(names, WEIGHTS)  # noqa: B905
    ],
  }
  return recipe | ({'base_model': str(folder / base)} if base else {})


def render(template: str, conversation: list, prompt: bool) -> str:
  """A conversation as transformers renders it."""
  environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True
  )
  return environment.from_string(template).render(
    messages=conversation,
    add_generation_prompt=prompt,
    bos_token='<s>',
    eos_token='</s>',
  )


def record(seed: int) -> dict[str, np.ndarray]:
  """Models, and what mergekit makes of them in each case."""
  out = {'weights': np.array(WEIGHTS, np.float32)}
  built = build(seed)
  with (
    tempfile.TemporaryDirectory() as name,
    mock.patch.dict(os.environ, {'HF_HUB_OFFLINE': '1'}),
  ):
    folder = pathlib.Path(name)
    for model, (tokenizer, tensors) in built.items():
      half = model in ('ah', 'bh')
      _write(folder / model, tokenizer, tensors, half)
      out[f'model/{model}/tokenizer'] = np.array(tokenizer.to_str())
      out |= {f'model/{model}/{k}': v for k, v in tensors.items()}
    for case, (base, names, tokenizer) in CASES.items():
      recipe = _recipe(folder, base, names.split())
      recipe['tokenizer'] = _in(folder, tokenizer)
      _merge(recipe, folder / 'out' / case)
      merged = load_file(folder / 'out' / case / 'model.safetensors')
      text = (folder / 'out' / case / 'tokenizer.json').read_text()
      content = json.loads(text)
      vocab = content['model']['vocab']
      if isinstance(vocab, list):
        vocab = {token: i for i, (token, _) in enumerate(vocab)}
      vocab |= {t['content']: t['id'] for t in content['added_tokens']}
      config = json.loads((folder / 'out' / case / 'config.json').read_text())
      stated = {'base': base, 'models': names.split(), 'tokenizer': tokenizer}
      out[f'case/{case}/recipe'] = np.array(json.dumps(stated))
      out[f'case/{case}/vocabulary'] = np.array(json.dumps(vocab))
      out[f'case/{case}/vocab_size'] = np.array(config['vocab_size'])
      out |= {f'case/{case}/{k}': merged[k].numpy() for k in (EMBED, HEAD)}
    for template in TEMPLATES:
      recipe = _recipe(folder, 'a', ['a', 'g'])
      recipe |= {'chat_template': template, 'tokenizer_source': 'union'}
      _merge(recipe, folder / 'out' / template)
      text = (folder / 'out' / template / 'chat_template.jinja').read_text()
      out[f'template/{template}'] = np.array(
        [render(text, c, p) for c in CONVERSATIONS for p in (False, True)]
      )
  return out


if __name__ == '__main__':
  path = pathlib.Path(__file__).with_name('vocabulary_mergekit_0.1.5.npz')
  np.savez_compressed(path, **record(0))
