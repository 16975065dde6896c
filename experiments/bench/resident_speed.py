"""Merging inside a search: time a candidate, beside the copy bandwidth.

  python -m experiments.bench.resident_speed

MiniLM with four experts on the device; prints one JSON object. Values do not
change the times, so the experts are the base with noise.
"""

import concurrent.futures
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import trees
from automerge_jax.io import assets, safetensors
from automerge_jax.merging import registry, resident
from automerge_jax.models import registry as families
from experiments import startup

EXPERTS = 4
METHODS = ('linear', 'task_arithmetic', 'ties', 'dare_linear', 'dare_ties')
_REPEATS = 15
_COPIED = 1 << 28  # float32 entries, 1 GiB


def copy_bandwidth() -> float:
  """Bytes read and written a second by the best two-thread copy of 1 GiB."""
  source, target = np.ones(_COPIED, np.float32), np.zeros(_COPIED, np.float32)
  halves = (slice(0, _COPIED // 2), slice(_COPIED // 2, None))
  best = float('inf')
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for _ in range(6):
      begin = time.perf_counter()
      list(pool.map(lambda s: np.copyto(target[s], source[s]), halves))
      best = min(best, time.perf_counter() - begin)
  return 2 * source.nbytes / best


def merges(names=METHODS) -> dict[str, list[float]]:
  """Seconds of each merge of each method; the methods take turns."""
  folder = assets.fetch('minilm')
  family = families.load(folder).family
  stored = safetensors.read(folder)
  base = {key.stored: stored[key.stored] for key in family.keys}
  draw = np.random.default_rng(0)
  experts = [
    {
      name: tensor + 1e-3 * draw.standard_normal(tensor.shape, np.float32)
      for name, tensor in base.items()
    }
    for _ in range(EXPERTS)
  ]
  ready, last = {}, {}
  for name in names:
    method = registry.get(name)
    stack = resident.build(method, family, base, experts)
    plan = _plan(method, family.num_layers, stack)
    # Into the last candidate's memory, as in a search, whose loop runs on the
    # device: fresh memory would cost more time than a linear merge.
    merge = jax.jit(
      lambda p, s, out, m=method: resident.merge(m, p, s),
      donate_argnums=2,
      keep_unused=True,
    )
    merged = jax.tree.map(jnp.zeros_like, stack.base)
    merged = jax.block_until_ready(merge(plan, stack, merged))
    ready[name] = (merge, plan, stack)
    last[name] = merged
  seconds: dict[str, list[float]] = {name: [] for name in names}
  for _ in range(_REPEATS):
    for name, (merge, plan, stack) in ready.items():
      begin = time.perf_counter()
      last[name] = jax.block_until_ready(merge(plan, stack, last[name]))
      seconds[name].append(time.perf_counter() - begin)
  return seconds


def _plan(method, num_layers: int, stack):
  """Every leaf and layer with the same ordinary numbers."""
  plan = {}
  usual = {'weight': 0.4, 'density': 0.3}
  for path in trees.flatten(stack.base):
    layers = (num_layers,) if path.startswith('layers/') else ()
    plan[path] = {
      p.name: jnp.full(
        (*(EXPERTS,) * p.per_expert, *layers), usual.get(p.name, p.default)
      )
      for p in method.parameters
    }
  return plan


def measure() -> dict[str, float]:
  """Figures: medians in ms, ratios, and the limit of a linear merge."""
  bandwidth = copy_bandwidth()
  medians = {n: statistics.median(s) for n, s in merges().items()}
  size = sum(t.size for t in safetensors.read(assets.fetch('minilm')).values())
  moved = 4 * size * (EXPERTS + 1)  # experts are read, the merge is written
  return {
    'copy_bandwidth_gb_s': round(bandwidth / 1e9, 2),
    'linear_limit_ms': round(1e3 * moved / bandwidth, 2),
    'linear_copy_bandwidth_fraction': round(
      moved / bandwidth / medians['linear'], 3
    ),
    **{
      f'resident_{name}_ms': round(1e3 * value, 2)
      for name, value in medians.items()
    },
    'resident_ties_over_linear': round(medians['ties'] / medians['linear'], 2),
    'resident_dare_over_linear': round(
      medians['dare_ties'] / medians['linear'], 2
    ),
  }


if __name__ == '__main__':
  startup.prepare()
  print(json.dumps(measure()))
