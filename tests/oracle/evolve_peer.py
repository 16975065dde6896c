"""What mergekit-evolve makes of genotypes; runs in .venv-peers.

python evolve_peer.py INPUTS.npz OUTPUTS.npz, with `seed` and `count`
"""

import contextlib
import json
import pathlib
import random
import sys
import tempfile

import numpy as np
import yaml
from mergekit.evo.config import EvolMergeConfiguration
from mergekit.evo.genome import ModelGenome

LAYERS = 4


def document(draw: random.Random) -> dict:
  """A random mergekit-evolve file."""
  method = draw.choice(
    ['linear', 'task_arithmetic', 'ties', 'dare_ties', 'slerp']
  )
  genome: dict = {
    'models': draw.sample(['a', 'b', 'c'], draw.choice([2, 3])),
    'merge_method': method,
    'layer_granularity': draw.choice([-1, 0, 1, 2, 4]),
    'allow_negative_weights': draw.random() < 0.5,
  }
  if method in ('task_arithmetic', 'ties', 'dare_ties') or draw.random() < 0.3:
    genome['base_model'] = draw.choice(['base', 'base', 'a'])
  if draw.random() < 0.4:
    genome['normalize'] = draw.random() < 0.5
  if draw.random() < 0.4:
    genome['tokenizer_source'] = draw.choice(['union', 'base'])
  if method != 'slerp':
    genome['smooth'] = draw.random() < 0.4
    filters = draw.sample(['self_attn', 'mlp', 'embed'], draw.randint(0, 2))
    if filters:
      genome['filters'] = filters
  return {'genome': genome, 'tasks': ['arc', {'name': 'x', 'weight': 0.5}]}


def record(seed: int, count: int) -> list:
  """[file, initial genotype, [[genotype, recipe], ...]] of each file."""
  draw, numbers = random.Random(seed), np.random.default_rng(seed)
  found = []
  with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    for model in ('a', 'b', 'c', 'base'):
      pathlib.Path(model).mkdir()
      pathlib.Path(model, 'config.json').write_text(
        json.dumps({'model_type': 'llama', 'num_hidden_layers': LAYERS})
      )
    for _ in range(count):
      text = yaml.safe_dump(document(draw))
      config = EvolMergeConfiguration.model_validate(yaml.safe_load(text))
      genome = ModelGenome(config.genome)
      start = genome.initial_genotype(random=False).numpy()
      genes = numbers.normal(0.4, 0.7, (2, start.size)).astype(np.float32)
      made = [
        [row.tolist(), genome.genotype_merge_config(row).to_yaml()]
        for row in genes
      ]
      found.append([text, start.tolist(), made])
  return found


def main(inputs: str, outputs: str) -> None:
  with np.load(inputs) as given:
    recorded = record(int(given['seed']), int(given['count']))
  np.savez(outputs, recorded=np.array(json.dumps(recorded)))


if __name__ == '__main__':
  main(*sys.argv[1:])
