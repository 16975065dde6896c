"""A tiny tokenizer, and the folder of a tiny decoder that uses it.

Letters, a space and a few joined ones: 'c', 'a', 't' become 'cat', and a space
belongs to the word behind it, as in the vocabularies of real models.
"""

import json
import pathlib

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from automerge_jax.io import safetensors
from tests import tiny_decoder

BEGIN, END = '<s>', '</s>'
_LETTERS = 'abcdefghijklmnopqrstuvwxyz.:?'
_MERGES = (
  ('Ġ', 't'),
  ('h', 'e'),
  ('Ġt', 'he'),
  ('Ġ', 'c'),
  ('a', 't'),
  ('Ġc', 'at'),
  ('c', 'at'),
  ('i', 'n'),
  ('in', 'g'),
  ('o', 'n'),
  ('Ġ', 'y'),
  ('e', 's'),
  ('Ġy', 'es'),
)


def tokenizer(begins: bool):
  """Byte-level BPE; with `begins` each text starts with BEGIN."""
  words = [BEGIN, END, 'Ċ', 'Ġ', *_LETTERS, *(a + b for a, b in _MERGES)]
  assert len(words) <= tiny_decoder.VOCAB
  made = tokenizers.Tokenizer(
    models.BPE({word: i for i, word in enumerate(words)}, list(_MERGES))
  )
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens([BEGIN, END])
  if begins:
    made.post_processor = processors.TemplateProcessing(
      single=f'{BEGIN} $A', special_tokens=[(BEGIN, 0)]
    )
  return made


def write(folder: pathlib.Path, begins: bool) -> pathlib.Path:
  """A Hugging Face folder that lm-eval loads too."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'tokenizer.json').write_text(tokenizer(begins).to_str())
  told = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'eos_token': END,
    'clean_up_tokenization_spaces': False,
  }
  if begins:
    told['bos_token'] = BEGIN
  (folder / 'tokenizer_config.json').write_text(json.dumps(told))
  config = tiny_decoder.CONFIG | {
    'architectures': ['LlamaForCausalLM'],
    'torch_dtype': 'float32',
    'bos_token_id': 0 if begins else None,
    'eos_token_id': 1,
  }
  (folder / 'config.json').write_text(json.dumps(config))
  safetensors.write(folder, tiny_decoder.tensors())
  return folder


# What is hard: spaces at a prompt's end, no prompt, tokens that join prompt
# and continuation, a prompt that begins as the tokenizer would begin it, texts
# that are too long for LONGEST tokens.
LONGEST = 14
PAIRS = (
  ('the cat sat on the mat. is it there?', ' yes'),
  ('the cat sat on the mat. is it there?', ' no'),
  ('is it there? ', 'yes'),
  ('is it there?  ', ' no'),
  ('', 'the cat'),
  ('', ' yes'),
  ('a ca', 'ts hat'),
  ('the', 'n he was singing'),
  (BEGIN + 'the cat', ' is'),
  (BEGIN, 'he is'),
  ('q\n', 'a: the thing'),
  ('what a long prompt that goes on and on and never ends does', ' yes'),
  ('x', ' uvwxyz.uvwxy'),
)
TEXTS = (
  'the cat',
  'a cat that is on the mat is singing on and on and on.',
  'xyz.' * 9,
  'the thing is: he sat there the one time',
)


def given():
  """The same as arrays, for a peer."""
  prompts, continuations = zip(*PAIRS, strict=True)
  return {
    'prompts': np.array(prompts),
    'continuations': np.array(continuations),
    'texts': np.array(TEXTS),
    'max_tokens': np.array(LONGEST),
  }
