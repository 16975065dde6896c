"""Merging against mergekit 0.1.5, and inside a search against the memory.

  make peers
  python -m experiments.bench.merge_speed --workdir=runs/merge_speed

SmolLM2-135M in float32, a base and three experts (the base with noise, since
values do not change the times): whole processes from start to end, the same
recipe, in turns, inputs in the page cache, our caches (compiled functions,
digests of the inputs) filled; `*_empty_cache_s` is a run without. Peak memory
is anonymous memory (RssAnon) of the process, sampled. Writes
results/merge_speed.json.
"""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags

from automerge_jax.io import assets, gguf, safetensors
from automerge_jax.search import environment

WORKDIR = flags.DEFINE_string('workdir', 'runs/merge_speed', 'For the models.')
REPEATS = flags.DEFINE_integer('repeats', 3, 'Runs of each; medians count.')

_PROJECT = pathlib.Path(__file__).resolve().parents[2]
_OUT = _PROJECT / 'results' / 'merge_speed.json'
_PEER = _PROJECT / '.venv-peers' / 'bin' / 'mergekit-yaml'
EXPERTS = 3
RECIPES = {
  'linear': ('linear', None),
  'ties': ('ties', 0.3),
  'dare_ties': ('dare_ties', 0.3),
  'della': ('della', 0.5),
}


def prepare(folder: pathlib.Path) -> None:
  """Base, experts and recipes, once."""
  if (folder / 'ready').is_file():
    return
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  source = assets.fetch('smollm2') / 'model.gguf'
  gguf.to_hugging_face(source, folder / 'base')
  base = safetensors.read(folder / 'base')
  for k in range(EXPERTS):
    draw = np.random.default_rng(k)
    shutil.copytree(folder / 'base', folder / f'expert{k}')
    safetensors.write(
      folder / f'expert{k}',
      {
        name: tensor + 1e-3 * draw.standard_normal(tensor.shape, np.float32)
        for name, tensor in base.items()
      },
    )
  for name, (method, density) in RECIPES.items():
    models = '\n'.join(
      f'  - {{model: expert{k}, parameters: {{weight: {weight}}}}}'
      for k, weight in enumerate((0.5, 0.3, 0.2))
    )
    text = f'merge_method: {method}\nmodels:\n{models}\ndtype: float32\n'
    if density is not None:
      text += f'base_model: base\nparameters: {{density: {density}}}\n'
    (folder / f'{name}.yaml').write_text(text)
  (folder / 'ready').touch()


def timed(
  command: list[str], folder: pathlib.Path, **environment: str
) -> tuple[float, float]:
  """Seconds and peak anonymous memory, MB, of a command that makes `out`."""
  shutil.rmtree(folder / 'out', ignore_errors=True)
  begin = time.perf_counter()
  process = subprocess.Popen(
    command,
    cwd=folder,
    env=os.environ
    | {'PYTHONPATH': str(_PROJECT), 'HF_HUB_OFFLINE': '1'}
    | environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
  )
  peak = 0
  while process.poll() is None:
    peak = max(peak, _anonymous(process.pid))
    time.sleep(0.01)
  seconds = time.perf_counter() - begin
  assert process.stderr is not None
  if process.returncode:
    raise RuntimeError(process.stderr.read().decode()[-2000:])
  process.stderr.close()
  return seconds, peak / 1e6


def _anonymous(pid: int) -> int:
  """Bytes of anonymous memory of a process."""
  try:
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:
    return 0
  for line in status.splitlines():
    if line.startswith('RssAnon:'):
      return 1024 * int(line.split()[1])
  return 0


def compare(folder: pathlib.Path, repeats: int) -> dict[str, float]:
  """Medians of both, their ratios, and our largest peak."""
  figures, peaks = {}, []
  for name in RECIPES:
    recipe, out = str(folder / f'{name}.yaml'), str(folder / 'out')
    commands = {
      'ours': [
        *(sys.executable, '-m', 'experiments.merge'),
        *(f'--recipe={recipe}', f'--out={out}'),
      ],
      # Its model card asks a hub about the models.
      'mergekit': [str(_PEER), recipe, out, '--no-write-model-card'],
    }
    with tempfile.TemporaryDirectory() as empty:
      cold, _ = timed(commands['ours'], folder, AUTOMERGE_CACHE=empty)
    timed(commands['ours'], folder)  # fills the usual cache
    taken: dict[str, list[tuple[float, float]]] = {'ours': [], 'mergekit': []}
    for _ in range(repeats):
      for who, command in commands.items():
        taken[who].append(timed(command, folder))
    seconds = {
      who: statistics.median(s for s, _ in runs) for who, runs in taken.items()
    }
    peaks.append(max(peak for _, peak in taken['ours']))
    figures |= {
      f'{name}_s': round(seconds['ours'], 2),
      f'{name}_empty_cache_s': round(cold, 2),
      f'{name}_mergekit_s': round(seconds['mergekit'], 2),
      f'{name}_speedup_vs_mergekit': round(
        seconds['mergekit'] / seconds['ours'], 2
      ),
      f'{name}_peak_memory_mb': round(peaks[-1], 1),
      f'{name}_mergekit_peak_memory_mb': round(
        max(peak for _, peak in taken['mergekit']), 1
      ),
    }
    print(figures, file=sys.stderr)
  return figures | {'peak_memory_mb': round(max(peaks), 1)}


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  if not _PEER.is_file():
    sys.exit(f'{_PEER} is missing; run `make peers`')
  folder = pathlib.Path(WORKDIR.value).resolve()
  prepare(folder)
  load = os.getloadavg()[0]
  figures = compare(folder, REPEATS.value)
  infos = safetensors.read(folder / 'base')
  largest = max(tensor.nbytes for tensor in infos.values())
  inside = subprocess.run(
    [sys.executable, '-m', 'experiments.bench.resident_speed'],
    cwd=_PROJECT,
    check=True,
    capture_output=True,
    text=True,
  )
  figures |= json.loads(inside.stdout.splitlines()[-1])
  limit = figures.pop('linear_limit_ms')
  moved = (EXPERTS + 1) * sum(tensor.nbytes for tensor in infos.values())
  bandwidth = 1e9 * figures['copy_bandwidth_gb_s']
  results = {
    'command': 'python -m experiments.bench.merge_speed',
    'environment': environment.describe()
    | {'load_before': load, 'mergekit': '0.1.5', 'repeats': REPEATS.value},
    'figures': figures
    | {
      'peak_memory_bound_mb': round(((EXPERTS + 2) * largest + 600e6) / 1e6, 1),
    },
    'intervals': {},
    'limits': {
      'linear_s': round(moved / bandwidth, 3),
      'resident_linear_ms': limit,
    },
    'seeds': list(range(EXPERTS)),
  }
  _OUT.write_text(json.dumps(results, indent=2) + '\n')
  print(json.dumps(results))


if __name__ == '__main__':
  app.run(main)
