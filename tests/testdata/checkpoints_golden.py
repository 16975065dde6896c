"""Tiny checkpoints merged by mergekit 0.1.5; runs in .venv-peers.

python checkpoints_golden.py writes checkpoints_mergekit_0.1.5.npz beside it. Of
each case: `CASE`, the tensors end to end (bfloat16 as its bits), and in `facts`
its recipe, the tensors' names, types and shapes, what its config says and its
vocabulary.
"""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
from unittest import mock

import numpy as np
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import checkpoint_recipes
import tiny_checkpoints

STATED = ('num_hidden_layers', 'n_layer', 'vocab_size', 'tie_word_embeddings')


def merge(text: str, out: str) -> None:
  """What `mergekit-yaml` does with a file of this text."""
  from mergekit.config import MergeConfiguration
  from mergekit.merge import run_merge
  from mergekit.options import MergeOptions

  run_merge(
    MergeConfiguration.model_validate(yaml.safe_load(text)),
    out,
    MergeOptions(
      copy_tokenizer=True,
      quiet=True,
      write_model_card=False,
      random_seed=0,
      lora_merge_cache='adapters',
    ),
  )


def record(
  folder: str | pathlib.Path, cases: dict[str, str]
) -> dict[str, np.ndarray]:
  """mergekit's merges of recipes whose models lie in a folder."""
  found, facts = {}, {}
  with (
    contextlib.chdir(folder),
    mock.patch.dict(os.environ, {'HF_HUB_OFFLINE': '1'}),
  ):
    for case, text in cases.items():
      merge(text, f'theirs/{case}')
      merged = pathlib.Path('theirs', case)
      tensors, types = read(merged)
      found[case] = np.concatenate([t.ravel() for t in tensors.values()])
      config = json.loads((merged / 'config.json').read_text())
      facts[case] = {
        'recipe': text,
        'tensors': {n: [types[n], t.shape] for n, t in tensors.items()},
        'config': {key: config[key] for key in STATED if key in config},
        # Of models without a tokenizer transformers makes an empty one.
        'vocabulary': vocabulary(merged) if 'tokenizer' in text else None,
      }
  return found | {'facts': np.array(json.dumps(facts))}


def read(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Tensors of a folder, bfloat16 as its bits, and their types."""
  tensors, types = {}, {}
  for path in sorted(folder.glob('*.safetensors')):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:start])
    header.pop('__metadata__', None)
    for name, entry in header.items():
      first, last = entry['data_offsets']
      kind = {'F32': '<f4', 'BF16': '<u2'}[entry['dtype']]
      part = np.frombuffer(data[start + first : start + last], kind)
      tensors[name] = part.reshape(entry['shape'])
      types[name] = {'F32': 'float32', 'BF16': 'bfloat16'}[entry['dtype']]
  return tensors, types


def vocabulary(folder: pathlib.Path) -> dict[str, int]:
  """Ids by token."""
  content = json.loads((folder / 'tokenizer.json').read_text())
  added = {t['content']: t['id'] for t in content['added_tokens']}
  return content['model']['vocab'] | added


def main() -> None:
  path = pathlib.Path(__file__).with_name('checkpoints_mergekit_0.1.5.npz')
  with tempfile.TemporaryDirectory() as folder:
    models = tiny_checkpoints.MODELS | tiny_checkpoints.EXAMPLES
    drawn = tiny_checkpoints.write(pathlib.Path(folder), 0, models)
    cases = checkpoint_recipes.CASES | checkpoint_recipes.examples()
    found = record(folder, cases)
  np.savez_compressed(path, digest=np.array(drawn), **found)


if __name__ == '__main__':
  main()
