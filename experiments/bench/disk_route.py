"""Candidates a minute: resident merges against the route over the disk.

  make peers
  python -m experiments.bench.disk_route

The same layer-wise recipes and items of the encoder suite, two threads,
float32, in turns. The peer's route is mergekit, a file, transformers, torch;
in one process whose imports are not counted, and with mergekit's command a
candidate. Items are tokenised before. mergekit 0.1.5 stops with a TypeError at
the architecture `BertModel`, so it gets copies with the names that it infers.
"""

import functools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.experimental.compilation_cache import compilation_cache

from automerge_jax.models import registry as families
from automerge_jax.search import environment, evaluate, lower, sanity, shared
from automerge_jax.search.job import BASE
from automerge_jax.tasks import kinds
from automerge_jax.types import ItemScores
from experiments import startup
from experiments.bench import disk_recipes, minilm_speed, turns
from experiments.bench.disk_recipes import Suite

_PROJECT = pathlib.Path(__file__).resolve().parents[2]
EXPERTS = _PROJECT / 'runs' / 'encoder_suite' / 'experts'
CANDIDATES = 6
NEAR = 1e-3  # a lead in logits that roundings may turn
PARTS = ('merge', 'save', 'load', 'evaluate')
_COMMAND = turns.PEER.with_name('mergekit-yaml')


class Compiled(NamedTuple):
  """`coefficients [P, D] -> leaves [P, n]`, and seconds that compiling took."""

  score: Callable[[np.ndarray], ItemScores]
  seconds: float


def compiled(suite: Suite, count: int) -> Compiled:
  """The search's scorer with everything on the device.

  The gate in front of it measures as in a search, and refuses nothing.
  """
  job = suite.job
  originals = [job.tensors(name) for name in job.experts]
  stack = shared.build(job.method, job.family, job.tensors(BASE), originals)
  lines = sanity.lines(job.folders[BASE], job.family)
  anything = sanity.Vitals(jnp.float32(jnp.inf), jnp.float32(jnp.inf))
  data = kinds.arrays(suite.items)
  inputs, data = (
    lower.carried(job.family, stack, part, 'float32') for part in (lines, data)
  )
  given = stack, job.heads, sanity.Gate(inputs, anything), data
  active = jnp.ones(count, bool)
  run = jax.jit(
    evaluate.population_scorer(
      job.family, job.method, suite.space.decode, rungs=1
    ),
    static_argnums=6,
  )
  shape = jnp.zeros((count, len(suite.space.names)), jnp.float32)
  kept = jax.config.jax_enable_compilation_cache
  _use_cache(False)
  begin = time.perf_counter()
  ready = run.lower(shape, active, *given, len(suite.items)).compile()
  seconds = time.perf_counter() - begin
  _use_cache(kept)

  def score(c: np.ndarray) -> ItemScores:
    return jax.device_get(ready(jnp.asarray(c), active, *given)[0])

  return Compiled(score, seconds)


def _use_cache(use: bool) -> None:
  jax.config.update('jax_enable_compilation_cache', use)
  compilation_cache.reset_cache()


def differing(
  ours: ItemScores, peers: Sequence[Mapping[str, Any]]
) -> tuple[int, float]:
  """Item scores that differ, and the largest difference in nats.

  Args:
    ours: of each candidate, leaves [P, n].
    peers: of each candidate `right`, `nats` and `margin`, [n].

  Raises:
    RuntimeError: if they differ where no class is near the best one: then it
      was not the same merge, or not the same item.
  """
  right, nats, margin = (
    np.asarray([found[name] for found in peers])
    for name in ('right', 'nats', 'margin')
  )
  other = np.asarray(ours.score) != right
  if (other & (margin > NEAR)).any():
    candidate, item = np.argwhere(other & (margin > NEAR))[0]
    raise RuntimeError(
      f'candidate {candidate}, item {item}: ours scores '
      f'{ours.score[candidate, item]}, the peer {right[candidate, item]} with '
      f'a lead of {margin[candidate, item]:.3g} logits; expected the same '
      f'above {NEAR}'
    )
  return int(other.sum()), float(np.abs(ours.log_likelihood - nats).max())


def run(
  repeats: int,
  folder: pathlib.Path = EXPERTS,
  method: str = 'task_arithmetic',
) -> dict[str, dict[str, float]]:
  """`figures` and `limits`, by name.

  Args:
    repeats: turns, each of all candidates on both sides; medians count.
    folder: base and experts of the encoder suite.
    method: which both merge by.

  Raises:
    FileNotFoundError: without the peers.
    RuntimeError: if both sides do not score the same.
  """
  if not turns.PEER.is_file():
    raise FileNotFoundError(f'{turns.PEER} is missing; run `make peers`')
  suite = disk_recipes.load(disk_recipes.settings(folder, method))
  c = disk_recipes.candidates(suite.space, CANDIDATES)
  ours = compiled(suite, CANDIDATES)
  ours.score(c)  # unmeasured, as the peer's first candidate
  seconds: dict[str, list[float]] = {
    name: [] for name in ('ours', 'command', *PARTS)
  }
  other, gap = 0, 0.0
  with tempfile.TemporaryDirectory(dir=folder.parent) as text:
    place = pathlib.Path(text)
    models = disk_recipes.copies(suite.job, place / 'models')
    recipes = disk_recipes.write(suite.space, c, models, place)
    with turns.peer(suite.job.folders[BASE], 'disk_route_peer.py') as ask:
      batches = ask('items', _items(suite))[1]
      _merged(ask, recipes[0], place / 'out')
      for turn in range(repeats):
        begin = time.perf_counter()
        found = ours.score(c)
        seconds['ours'].append((time.perf_counter() - begin) / CANDIDATES)
        peers = [_merged(ask, recipe, place / 'out') for recipe in recipes]
        for name in PARTS:
          mean = statistics.mean(one[f'{name}_s'] for one in peers)
          seconds[name].append(mean)
        other, gap = differing(found, peers)
        one = turn % CANDIDATES
        seconds['command'].append(_command(recipes[one], place / 'out'))
        again = ask('scored', {'out': str(place / 'out')})[1]
        print(f'turn {turn}: {_last(seconds)}', file=sys.stderr, flush=True)
        take = functools.partial(np.take, indices=[one], axis=0)
        differing(jax.tree.map(take, found), [again])
  medians = {name: statistics.median(spent) for name, spent in seconds.items()}
  told = np.asarray([seconds[name] for name in PARTS])  # [parts, turns]
  disk = told.sum(0)
  command = np.asarray(seconds['command']) + told[-2:].sum(0)
  ratios, commands = disk / seconds['ours'], command / seconds['ours']
  work = minilm_speed.flops(
    families.load(suite.job.folders[BASE]).params,
    [len(ids) for ids in suite.items.encoded],
  )
  rate = turns.matmul_rate()
  figures = {
    'ours_candidates_per_minute': 60 / medians['ours'],
    'disk_candidates_per_minute': 60 / np.median(disk),
    'disk_command_candidates_per_minute': 60 / np.median(command),
    'candidates_per_minute_ratio': np.median(ratios),
    'candidates_per_minute_ratio_lowest': ratios.min(),
    'candidates_per_minute_ratio_highest': ratios.max(),
    'candidates_per_minute_ratio_command': np.median(commands),
    'ours_candidate_s': medians['ours'],
    'ours_compilation_s': ours.seconds,
    'disk_candidate_s': np.median(disk),
    **{f'disk_{name}_s': medians[name] for name in PARTS},
    'disk_command_s': medians['command'],
    'disk_evaluate_over_ours': medians['evaluate'] / medians['ours'],
    'disk_torch_batch': int(min(batches, key=lambda size: batches[size])),
    'disk_items': len(suite.items),
    'disk_item_scores': c.shape[0] * len(suite.items),
    'disk_differing_item_scores': other,
    'disk_largest_difference_nats': gap,
    'disk_gflop': work / 1e9,
    'disk_matmul_gflop_s': rate / 1e9,
    'ours_matmul_rate_fraction': work / medians['ours'] / rate,
  }
  return {
    'figures': {name: round(float(v), 6) for name, v in figures.items()},
    'limits': {'ours_candidates_per_minute': round(60 * rate / work, 3)},
  }


def _items(suite: Suite) -> dict[str, Any]:
  """What the peer needs of them."""
  return {
    'ids': suite.items.encoded,
    'task': suite.items.task.tolist(),
    'label': suite.items.label.tolist(),
    'kernel': np.asarray(suite.job.heads['kernel']).tolist(),
    'bias': np.asarray(suite.job.heads['bias']).tolist(),
  }


def _last(seconds: Mapping[str, list[float]]) -> dict[str, float]:
  return {name: round(spent[-1], 2) for name, spent in seconds.items()}


def _merged(ask: turns.Ask, recipe: pathlib.Path, out: pathlib.Path):
  """One candidate by the peer, into a folder that is not there."""
  shutil.rmtree(out, ignore_errors=True)
  return ask('candidate', {'recipe': str(recipe), 'out': str(out)})[1]


def _command(recipe: pathlib.Path, out: pathlib.Path) -> float:
  """Seconds of a merge by mergekit's command."""
  shutil.rmtree(out, ignore_errors=True)
  begin = time.perf_counter()
  subprocess.run(
    [
      *(_COMMAND, recipe, out),
      *('--no-write-model-card', '--no-copy-tokenizer', '--quiet'),
    ],
    env=os.environ | {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '2'},
    check=True,
    capture_output=True,
  )
  return time.perf_counter() - begin


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  load = os.getloadavg()[0]
  results = {
    'command': 'python -m experiments.bench.disk_route',
    'environment': environment.describe()
    | {'load_before': load, 'repeats': REPEATS.value},
    **run(REPEATS.value, method=METHOD.value),
    'intervals': {},
    'seeds': [0],
  }
  if OUT.value:
    pathlib.Path(OUT.value).write_text(json.dumps(results, indent=2) + '\n')
  print(json.dumps(results))


if __name__ == '__main__':
  # Not above: another command imports `run`, with flags of its own.
  REPEATS = flags.DEFINE_integer('repeats', 5, 'Turns; medians count.')
  METHOD = flags.DEFINE_string('method', 'task_arithmetic', 'To merge by.')
  OUT = flags.DEFINE_string('out', None, 'A results file, if any.')
  app.run(main)
