"""A whole suite for tests: a random BERT, three experts, made-up texts.

Each task asks which of its groups of words a text has more of. Experts are
the base plus noise, with heads fitted to their own features, so experts do
well on their own task and a merge does worse.
"""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import tokenizers as hf
from tokenizers import models as hf_models
from tokenizers import pre_tokenizers, processors

from automerge_jax.io import safetensors, tokenizers
from automerge_jax.models import base, registry
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import classification, experts, sources, splits
from automerge_jax.tasks.sources import Example, Source
from configs import searches
from tests import tiny_encoder

TASKS = ('tiny_colour', 'tiny_animal', 'tiny_number')
CUES = {
  'tiny_colour': (('red', 'orange', 'pink'), ('blue', 'green', 'grey')),
  'tiny_animal': (('dog', 'wolf'), ('cat', 'lion'), ('eel', 'cod')),
  'tiny_number': (('one', 'two', 'three'), ('six', 'seven', 'nine')),
}
FILLERS = tuple('a the of in on at to by is was and or not so it as'.split())
EXAMPLES = 420
MAX_TOKENS = 16
CONFIG = tiny_encoder.CONFIG | {'hidden_size': 32, 'intermediate_size': 48}
NOISE = 0.08  # of an expert's weights, beside the base's 0.3


def source(task: str) -> Source:
  """The labelled texts of a task."""
  cues = CUES[task]
  rng = np.random.default_rng(TASKS.index(task))
  examples = []
  for i in range(EXAMPLES):
    label = i % len(cues)
    words = list(rng.choice(FILLERS, rng.integers(3, 10)))
    words += list(rng.choice(cues[label], 3))
    words.append(str(rng.choice(cues[rng.integers(len(cues))])))
    rng.shuffle(words)
    examples.append(Example(' '.join(words), label))
  return Source(tuple('abc'[: len(cues)]), tuple(examples))


SOURCES = {task: functools.partial(source, task) for task in TASKS}


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes `base` and `experts/TASK`; the tasks must be among `SOURCES`."""
  assert set(TASKS) <= set(sources.SOURCES)
  text = _tokenizer()
  config = CONFIG | {'vocab_size': len(json.loads(text)['model']['vocab'])}
  start = tiny_encoder.write(folder / 'base', 1, config, text)
  (start / 'vocab.txt').write_text(
    '\n'.join(json.loads(text)['model']['vocab'])
  )
  family = registry.load(start).family

  @jax.jit
  def features(params, inputs):
    hidden = base.forward(family, params, inputs)
    return classification.pool(hidden, inputs['mask'])

  for seed, task in enumerate(TASKS):
    expert = folder / 'experts' / task
    shutil.copytree(start, expert)
    rng = np.random.default_rng(100 + seed)
    tensors = {
      name: value
      if value.dtype.kind == 'i'
      else value + rng.normal(0, NOISE, value.shape).astype(np.float32)
      for name, value in safetensors.read(start).items()
    }
    safetensors.write(expert, tensors)
    items = splits.train_items(task, 200)
    tokens = tokenizers.encode(
      tokenizers.load(start), [item.text for item in items], MAX_TOKENS
    )
    x = np.asarray(
      features(
        base.pack(family.keys, tensors), classification.pad(tokens, MAX_TOKENS)
      ),
      np.float64,
    )
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    y = np.eye(len(CUES[task]))[[item.label for item in items]]
    fit = 4 * np.linalg.solve(x.T @ x + 5.0 * np.eye(x.shape[1]), x.T @ y)
    about = classification.Task(task, SOURCES[task]().classes, MAX_TOKENS)
    kernel, bias = fit[:-1].astype(np.float32), fit[-1].astype(np.float32)
    experts.write_head(expert, experts.Head(about, kernel, bias))
    experts.write_json(expert / experts.REPORT, {'settings': {}})
  return folder


def of_one_length(items):
  """Items whose last token is repeated, so that there is one bucket."""
  encoded = tuple(
    (*tokens, *tokens[-1:] * (MAX_TOKENS - len(tokens)))
    for tokens in items.encoded
  )
  return dataclasses.replace(items, encoded=encoded)


def settings(folder: pathlib.Path, **other) -> Settings:
  """A search of seconds over the suite in `folder`."""
  chosen = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in searches.likelihood().to_dict().items()
  }
  chosen |= {
    'tasks': TASKS,
    'base': folder / 'base',
    'experts': {task: folder / 'experts' / task for task in TASKS},
    'seed': 0,
    'ranges': {},
    'population': 6,
    'candidates': 42,
    'batch_size': None,
    'rungs': (16, 48),
    'promote': (3,),
    'gradient_steps': 16,
    'minibatches': 4,
    'finalists': 3,
    'select': 40,
    'heldout': 60,
    'weights': (0.4, 0.7, 1.0),
    'ties_scales': (1.0,),
    'ties_densities': (0.3, 1.0),
  }
  return Settings(**(chosen | other))


def _tokenizer() -> str:
  words = [word for cues in CUES.values() for group in cues for word in group]
  vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *FILLERS, *words]
  index = {word: i for i, word in enumerate(vocabulary)}
  tokenizer = hf.Tokenizer(hf_models.WordLevel(index, unk_token='[UNK]'))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.post_processor = processors.TemplateProcessing(
    single='[CLS] $A [SEP]',
    special_tokens=[(name, index[name]) for name in ('[CLS]', '[SEP]')],
  )
  return tokenizer.to_str()
