"""MiniLM text classification beside torch at batch 64 with dynamic padding.

Real texts of four tasks under made-up heads: from texts to predicted classes,
by the code with which a search scores.
"""

import pathlib
import sys

import jax
import numpy as np

from automerge_jax.io import assets
from automerge_jax.models import registry
from automerge_jax.search import evaluate
from automerge_jax.tasks import classification, itemset, kinds, splits
from experiments.bench import turns

TASKS = {'movie': 32, 'sarcasm': 32, 'election': 32, 'reuters': 48}
ITEMS = 300  # of each task
CLASSES = 8
BATCH = 64


def figures(
  ask: turns.Ask, folder: pathlib.Path, repeats: int
) -> dict[str, float]:
  """Seconds, their ratio, and the share of the matmul rate."""
  del folder  # of another model
  place = assets.fetch('minilm')
  model = registry.load(place)
  params = jax.device_put(model.params)
  names = tuple(map(str, range(CLASSES)))
  tasks = [classification.Task(t, names, most) for t, most in TASKS.items()]
  items = {name: splits.search_items(name, ITEMS) for name in TASKS}
  rng = np.random.default_rng(0)
  width = model.params['stem']['word']['embedding'].shape[1]
  kernel = rng.normal(size=(len(tasks), width, CLASSES)).astype(np.float32)
  heads = {'kernel': kernel, 'bias': np.zeros((len(tasks), CLASSES))}
  run = evaluate.scorer(model.family)

  def ours():
    made = itemset.build(tasks, items, model.family, place)
    return jax.device_get(run(params, heads, kinds.arrays(made), len(made)))

  work = {
    'folder': str(place),
    'batch': BATCH,
    'tasks': [
      {
        'texts': [item.text for item in items[task.name]],
        'labels': [item.label for item in items[task.name]],
        'max_tokens': task.max_tokens,
        'kernel': head.tolist(),
      }
      for task, head in zip(tasks, kernel, strict=True)
    ],
  }
  timed = turns.compare(ours, ask, 'classification', work, repeats)
  made = itemset.build(tasks, items, model.family, place)
  tokens = sum(map(len, made.encoded))
  slots = sum(part.inputs['ids'].size for part in kinds.arrays(made))
  gflop = flops(model.params, [len(ids) for ids in made.encoded]) / 1e9
  rate = turns.matmul_rate()
  worst = np.abs(timed.found.log_likelihood - np.array(timed.peer_found)).max()
  found = {
    'minilm_s': round(timed.ours, 3),
    'minilm_torch_s': round(timed.peer, 3),
    'minilm_speed_vs_torch': round(timed.peer / timed.ours, 3),
    'minilm_items': len(made),
    'minilm_tokens': tokens,
    'minilm_slots': slots,
    'minilm_gflop': round(gflop, 1),
    'minilm_matmul_rate_fraction': round(gflop * 1e9 / timed.ours / rate, 3),
    'minilm_largest_difference_nats': round(float(worst), 6),
  }
  print(found, file=sys.stderr)
  return found


def flops(params, sizes) -> float:
  """Of the matmuls of tokens that are no padding."""
  kernels = [x for x in jax.tree.leaves(params['layers']) if x.ndim == 3]
  layers, width = kernels[0].shape[0], kernels[0].shape[1]
  weights = sum(leaf.size for leaf in kernels)
  pairs = sum(size**2 for size in sizes)
  return 2.0 * weights * sum(sizes) + 4.0 * layers * width * pairs
