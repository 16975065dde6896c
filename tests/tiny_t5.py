"""A T5 of a user's own: its base, three experts, and their JSONL tasks.

Each task asks which of two groups of words a text is about. The base is a
recorded random T5; experts are the base after some steps on their task. Answers
differ in length and end with the token that ends texts.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers as hf
from tokenizers import models as hf_models
from tokenizers import pre_tokenizers, processors

from automerge_jax.io import safetensors
from automerge_jax.models import base, registry
from tests import text_models

TASKS = ('heat', 'house', 'sound')
ANSWERS = {
  'heat': ('warm', 'rather cold'),
  'house': ('indoors', 'far outside'),
  'sound': ('loud', 'very quiet'),
}
_CUES = {
  'heat': (('sun', 'fire', 'oven'), ('ice', 'snow', 'frost')),
  'house': (('sofa', 'lamp', 'shelf'), ('field', 'river', 'tree')),
  'sound': (('drum', 'horn', 'bell'), ('moth', 'cloud', 'sand')),
}
_FILLERS = ('the', 'near', 'a', 'this')
_PIECE = '\u2581'  # stands for a space, as in SentencePiece
SIZES = {'train': 160, 'validation': 40, 'test': 40}
_STEPS, _RATE, _EXAMPLES = 50, 0.02, 64
LONGEST, ANSWER = 16, 4  # tokens of a prompt, of an answer
_TASK = """\
kind: choice
data: {{train: {name}_train.jsonl, search: {name}_validation.jsonl, \
test: {name}_test.jsonl}}
duplicates: drop
prompt: "{{text}}"
choices: [{choices}]
label: label
metric: acc_tokens
delimiter: ""
max_tokens: 16
"""


def tokenizer() -> hf.Tokenizer:
  """Unigram, as T5's; special tokens are pad, end and unknown."""
  words = [*_FILLERS]
  words += [w for groups in _CUES.values() for group in groups for w in group]
  words += [w for pair in ANSWERS.values() for one in pair for w in one.split()]
  pieces = [*(_PIECE + word for word in dict.fromkeys(words)), _PIECE]
  special = ('<pad>', '</s>', '<unk>')
  made = hf.Tokenizer(
    hf_models.Unigram(
      [(token, 0.0) for token in special] + [(p, -2.0) for p in pieces],
      unk_id=2,
    )
  )
  made.add_special_tokens(list(special))
  made.pre_tokenizer = pre_tokenizers.Metaspace()
  made.post_processor = processors.TemplateProcessing(
    single='$A </s>', special_tokens=[('</s>', 1)]
  )
  return made


def rows(task: str, split: str) -> list[dict]:
  """Made-up examples."""
  rng = np.random.default_rng([TASKS.index(task), list(SIZES).index(split)])
  found = []
  for i in range(SIZES[split]):
    words = [*rng.choice(_CUES[task][i % 2], 3), *rng.choice(_FILLERS, 3)]
    other = _CUES[TASKS[(TASKS.index(task) + 1) % 3]]
    words += [*rng.choice([w for group in other for w in group], 2)]
    found.append({'text': ' '.join(rng.permutation(words)), 'label': i % 2})
  return found


def write(folder):
  """Writes `base`, `experts/TASK` and `TASK.yaml`; returns the folder."""
  start = _write_model(folder / 'base')
  for task in TASKS:
    for split in SIZES:
      lines = '\n'.join(map(json.dumps, rows(task, split)))
      (folder / f'{task}_{split}.jsonl').write_text(lines + '\n')
    choices = ', '.join(f'"{answer}</s>"' for answer in ANSWERS[task])
    (folder / f'{task}.yaml').write_text(
      _TASK.format(name=task, choices=choices)
    )
  (folder / 'experts').mkdir()
  for task, tensors in _trained(start).items():
    safetensors.write(_write_model(folder / 'experts' / task), tensors)
  return folder


def _write_model(folder):
  text_models.write(folder, 't5_tied', decoder_start_token_id=0)
  (folder / 'tokenizer.json').write_text(tokenizer().to_str())
  told = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'eos_token': '</s>',
    'pad_token': '<pad>',
    'unk_token': '<unk>',
  }
  (folder / 'tokenizer_config.json').write_text(json.dumps(told))
  return folder


def asked(tokenizer, text, answers):
  """A prompt [T] and the answers to it [C, U] as tokens, 0 behind them."""
  prompt = tokenizer.encode(text).ids
  ids = np.zeros(LONGEST, np.int32)
  ids[: len(prompt)] = prompt
  rows = np.zeros((len(answers), ANSWER), np.int32)
  for row, answer in zip(rows, answers, strict=True):
    tokens = tokenizer.encode(answer, add_special_tokens=False).ids
    assert tokens[-1] == 1  # the end of a text is scored as well
    row[: len(tokens)] = tokens
  return ids, rows


def log_probabilities(family, params, ids, answers):
  """Mean log-probability of each answer's tokens, [..., C].

  Args:
    family: T5.
    params: of the model.
    ids: prompts [..., T].
    answers: [..., C, U].
  """
  lead, size = answers.shape[:-1], answers.shape[-1]
  ids = jnp.broadcast_to(ids[..., None, :], (*lead, ids.shape[-1]))
  ids, flat = ids.reshape(-1, ids.shape[-1]), answers.reshape(-1, size)
  inputs = {
    'ids': ids,
    'mask': (ids > 0).astype(jnp.int32),
    'decoder_ids': jnp.pad(flat[:, :-1], ((0, 0), (1, 0))),
    'decoder_mask': jnp.ones_like(flat),
  }
  logits = family.logits(params, base.forward(family, params, inputs))
  each = jnp.take_along_axis(
    jax.nn.log_softmax(logits), flat[..., None], axis=-1
  )[..., 0]
  return ((each * (flat > 0)).sum(1) / (flat > 0).sum(1)).reshape(lead)


def _trained(start):
  """Stored tensors of each task's expert."""
  loaded = registry.load(start)
  family, words = loaded.family, tokenizer()
  optimizer = optax.adam(_RATE)

  @jax.jit
  def train(params, ids, answers, label):
    def loss(params):
      values = log_probabilities(family, params, ids, answers)
      right = jax.nn.log_softmax(values)[jnp.arange(len(label)), label]
      return -right.mean()

    def step(carry, _):
      params, state = carry
      updates, state = optimizer.update(jax.grad(loss)(params), state)
      return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, carry, None, length=_STEPS)
    return params

  found = {}
  for task in TASKS:
    examples = rows(task, 'train')[:_EXAMPLES]
    answers = [f'{answer}</s>' for answer in ANSWERS[task]]
    pairs = [asked(words, example['text'], answers) for example in examples]
    params = train(
      jax.tree.map(jnp.asarray, loaded.params),
      *map(np.stack, zip(*pairs, strict=True)),
      np.asarray([example['label'] for example in examples]),
    )
    found[task] = base.unpack(family.keys, jax.device_get(params))
  return found
