"""Writes generation.npz: what torch generates with the other golden models.

  .venv-peers/bin/python tests/testdata/generation_golden.py

For each case, named as in llama_tiny.npz or text_models.npz: `<case>/prompts`
[n, T], -1 behind each, `<case>/ends`, ids that end a text, and `<case>/tokens`
[n, new tokens], -1 behind the end.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / 'oracle'))

import generation_peer as peer  # noqa: E402

# Longest prompt and number of new tokens.
CASES = {
  'llama2': (13, 12),
  'llama3': (13, 12),
  'mistral': (13, 12),
  'qwen2': (13, 12),
  'gemma2': (13, 12),
  'gemma3': (13, 12),
  'gpt2_tied': (8, 8),
  't5_tied': (11, 9),
  't5_gated': (11, 9),
}
_PROMPTS = 9


def main() -> None:
  models = {}
  for name in ('llama_tiny', 'text_models'):
    with np.load(HERE / f'{name}.npz') as file:
      models |= dict(file)
  golden = {}
  for seed, (case, (longest, new_tokens)) in enumerate(CASES.items()):
    config = json.loads(str(models[f'{case}/config']))
    prefix = f'{case}/weights/'
    weights = {
      k.removeprefix(prefix): v for k, v in models.items() if prefix in k
    }
    draw = np.random.default_rng(seed)
    prompts = np.full((_PROMPTS, longest), -1)
    for row in prompts:
      size = draw.integers(1, longest + 1)
      row[:size] = draw.integers(1, config['vocab_size'], size)
    with tempfile.TemporaryDirectory() as folder:
      (pathlib.Path(folder) / 'config.json').write_text(json.dumps(config))
      save_file(weights, f'{folder}/model.safetensors', {'format': 'pt'})
      model = peer.load(folder)
    free = peer.generate(model, prompts, new_tokens, [], _PROMPTS)
    ends = np.unique(free[:3, new_tokens // 2])
    golden[f'{case}/prompts'] = prompts.astype(np.int32)
    golden[f'{case}/ends'] = ends.astype(np.int32)
    golden[f'{case}/tokens'] = peer.generate(
      model, prompts, new_tokens, ends.tolist(), _PROMPTS
    ).astype(np.int32)
  np.savez_compressed(HERE / 'generation.npz', **golden)


if __name__ == '__main__':
  main()
