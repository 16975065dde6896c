"""Models and tasks of a user: a tiny Llama, two experts, four task files."""

import json

import numpy as np

from automerge_jax.io import safetensors
from tests import tiny_decoder, tiny_text

WORDS = ('the cat', 'a hat', 'sing', 'yes', 'no', 'is it there', 'on the mat')
SCORER = '''
def score(model, ids):
  """As if another engine had read the checkpoint."""
  import safetensors.numpy
  tensors = safetensors.numpy.load_file(model / 'model.safetensors')
  size = float(abs(tensors['model.norm.weight']).mean())
  return {name: min(1.0, size / (1 + len(name))) for name in ids}
'''


def write(folder):
  """Writes `base`, `one`, `two` and `*.yaml`; returns the folder."""
  tiny_text.write(folder / 'base', begins=True)
  for seed, name in enumerate(('one', 'two'), 1):
    tiny_text.write(folder / name, begins=True)
    rng = np.random.default_rng(seed)
    tensors = {
      key: value + rng.normal(0, 0.05, value.shape).astype(np.float32)
      for key, value in tiny_decoder.tensors().items()
    }
    safetensors.write(folder / name, tensors)
  rng = np.random.default_rng(5)

  def words(count):
    return ' '.join(rng.choice(WORDS, count))

  rows = [
    {'q': f'{words(3)}. {i % 10}'.replace('1', 'x'), 'y': int(rng.integers(2))}
    for i in range(120)
  ]
  rows = [
    row | {'id': f'n{i}', 'q': row['q'] + 'abc'[i % 3] * (i // 3 % 9)}
    for i, row in enumerate(rows)
  ]
  lines = '\n'.join(json.dumps(row) for row in rows)
  (folder / 'data.jsonl').write_text(lines + '\n')
  tasks = {
    'answer': (
      'kind: choice\nprompt: "{q}?"\nchoices: [" yes", " the cat"]\n'
      'label: y\nmax_tokens: 40\n'
    ),
    'write': (
      'kind: generation\nprompt: "{q}:"\nanswer: "{y}"\nmax_tokens: 40\n'
      'max_new_tokens: 4\nstop: ["."]\npattern: "[a-z]+"\n'
    ),
    'text': 'kind: perplexity\ntext: "{q}"\nmax_tokens: 16\n',
    'outside': 'kind: external\nid: "{id}"\nfunction: scorer:score\n',
  }
  for name, text in tasks.items():
    head = f'name: {name}\ndata: data.jsonl\nduplicates: drop\n'
    (folder / f'{name}.yaml').write_text(head + text)
  (folder / 'scorer.py').write_text(SCORER)
  return folder
