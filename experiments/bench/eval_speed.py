"""Evaluating a model: against torch, and against the machine's matmuls.

  make peers
  python -m experiments.bench.eval_speed --workdir=runs/eval_speed

Both sides score the same items on two threads in float32, in turns, from texts
to numbers; loading and compiling come before. Writes results/eval_speed.json.
"""

import json
import os
import pathlib
import sys

from absl import app, flags

from automerge_jax.io import assets, gguf
from automerge_jax.search import environment
from experiments import startup
from experiments.bench import (
  generation_speed,
  likelihood_speed,
  minilm_speed,
  turns,
)

WORKDIR = flags.DEFINE_string('workdir', 'runs/eval_speed', 'For the models.')
REPEATS = flags.DEFINE_integer('repeats', 5, 'Turns; medians count.')
ONLY = flags.DEFINE_list('only', None, 'Of FIGURES; the others are kept.')

_OUT = pathlib.Path(__file__).resolve().parents[2] / 'results/eval_speed.json'

# `(ask, folder of SmolLM2, repeats) -> {name: number}`
FIGURES = {
  'classification': minilm_speed.figures,
  'generation': generation_speed.figures,
  'likelihood': likelihood_speed.figures,
}


def smollm2(workdir: pathlib.Path) -> pathlib.Path:
  """Folder of SmolLM2 in float32, made once."""
  folder = workdir / 'smollm2'
  if not (folder / 'config.json').is_file():
    workdir.mkdir(parents=True, exist_ok=True)
    gguf.to_hugging_face(assets.fetch('smollm2') / 'model.gguf', folder)
  return folder


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  if not turns.PEER.is_file():
    sys.exit(f'{turns.PEER} is missing; run `make peers`')
  startup.prepare()
  folder = smollm2(pathlib.Path(WORKDIR.value).resolve())
  load = os.getloadavg()[0]
  known = json.loads(_OUT.read_text())['figures'] if _OUT.is_file() else {}
  found = known if ONLY.value else {}
  with turns.peer(folder) as ask:
    versions = ask('versions', None)[1]
    for name in ONLY.value or FIGURES:
      found |= FIGURES[name](ask, folder, REPEATS.value)
  results = {
    'command': 'python -m experiments.bench.eval_speed',
    'environment': environment.describe()
    | {'load_before': load, 'peers': versions, 'repeats': REPEATS.value},
    'figures': found,
    'intervals': {},
    'limits': {
      'likelihood_s': round(
        found['likelihood_gflop'] / found['matmul_gflop_s'], 3
      )
    },
    'seeds': [],
  }
  _OUT.write_text(json.dumps(results, indent=2) + '\n')
  print(json.dumps(results))


if __name__ == '__main__':
  app.run(main)
