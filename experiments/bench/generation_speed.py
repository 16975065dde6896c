"""SmolLM2 generating beside transformers' `generate`, left padded, batch 8.

Beginnings of news of mixed length, 64 new tokens each and no earlier end, from
texts to texts; once with as many rows as torch has, once with our usual ones.
"""

import pathlib
import sys

import jax
import numpy as np

from automerge_jax.models import registry
from automerge_jax.tasks import decoding, generation, language_sources, stops
from automerge_jax.tasks.partition import Item
from experiments.bench import turns

PROMPTS = 32
NEW_TOKENS = 64
_LEAST_WORDS, _MOST_WORDS = 4, 60
PEER_BATCH = 8
_READS = 1 << 27  # float32 entries, 512 MiB


def prompts() -> list[str]:
  """Beginnings of different stories, of lengths spread evenly."""
  examples = language_sources.SOURCES['lm_topic']().train
  texts = [example.text.partition('\n')[0] for example in examples]
  words = np.linspace(_LEAST_WORDS, _MOST_WORDS, PROMPTS).astype(int)
  order = np.random.default_rng(0).permutation(PROMPTS)
  long = [
    text.split()[1:] for text in texts if len(text.split()) > _LEAST_WORDS
  ]
  spread = long[:: len(long) // PROMPTS][:PROMPTS]
  return [' '.join(spread[i][: words[order[i]]]) for i in range(PROMPTS)]


def figures(
  ask: turns.Ask, folder: pathlib.Path, repeats: int
) -> dict[str, float]:
  """Seconds, tokens a second and ratios to torch, with what limits them."""
  texts = prompts()
  model = registry.load(folder)
  params = jax.device_put(model.params)
  run = jax.jit(lambda p, q: decoding.generate(model.family, p, q))
  task = generation.Task('bench', 256, NEW_TOKENS)
  found: dict[str, float] = {}
  work = {
    'texts': texts,
    'new_tokens': NEW_TOKENS,
    'batch': PEER_BATCH,
  }
  steps = {}
  for name, batch in (('batch_8', PEER_BATCH), ('ours', generation.BATCH)):

    def ours(batch=batch):
      queue, encoded = _queue(task, texts, model.family, folder, batch)
      made = jax.device_get(run(params, queue))
      tokens = np.zeros((PROMPTS + 1, NEW_TOKENS), np.int32)
      tokens[queue.slot] = made.tokens
      return [
        stops.text(encoded[0].tokenizer, ids) for ids in tokens[:PROMPTS]
      ], int(made.steps)

    timed = turns.compare(ours, ask, 'generation', work, repeats)
    written, steps[name] = timed.found
    same = np.mean(
      [a == b for a, b in zip(written, timed.peer_found, strict=True)]
    )
    found |= {
      f'generation_{name}_s': round(timed.ours, 3),
      f'generation_{name}_torch_s': round(timed.peer, 3),
      f'generation_{name}_speed_vs_torch': round(timed.peer / timed.ours, 3),
      f'generation_{name}_new_tokens_s': round(
        PROMPTS * NEW_TOKENS / timed.ours, 1
      ),
      f'generation_{name}_steps': steps[name],
      f'generation_{name}_limit_s': round(
        _limit(params, task, texts, model.family, folder, batch, steps[name]), 3
      ),
      f'generation_{name}_same_texts': round(float(same), 3),
    }
    print(found, file=sys.stderr)
  # What both sides do alike decides: as many rows in each.
  found['smollm2_generation_speed_vs_torch'] = found[
    'generation_batch_8_speed_vs_torch'
  ]
  found['smollm2_generation_speed_vs_torch_own_batch'] = found[
    'generation_ours_speed_vs_torch'
  ]
  found['read_gb_s'] = round(read_bandwidth() / 1e9, 1)
  return found


def read_bandwidth() -> float:
  """Bytes a second of the best of some sums of 512 MiB by XLA."""
  import time

  total = jax.jit(lambda x: x.sum())
  x = jax.numpy.ones(_READS, 'float32')
  total(x).block_until_ready()
  best = float('inf')
  for _ in range(6):
    begin = time.perf_counter()
    total(x).block_until_ready()
    best = min(best, time.perf_counter() - begin)
  return x.nbytes / best


def _limit(params, task, texts, family, folder, batch, steps) -> float:
  """Seconds that no program takes less than, by bandwidth and matmuls.

  A step reads the layers and the vocabulary head once, and multiplies them
  with B rows: the longer of the two. Prompts are multiplied with the layers.
  """
  layers = sum(leaf.size for leaf in jax.tree.leaves(params['layers']))
  head = params['stem']['word']['embedding'].size
  queue, _ = _queue(task, texts, family, folder, batch)
  read = 2.0 * layers * int(queue.length.sum()) + 2.0 * head * PROMPTS
  bytes_moved, flops = 4.0 * (layers + head), 2.0 * batch * (layers + head)
  rate = turns.matmul_rate()
  step = max(bytes_moved / read_bandwidth(), flops / rate)
  return read / rate + steps * step


def _queue(task, texts, family, folder, batch):
  items = [Item(str(i), t, 0, answers=('.',)) for i, t in enumerate(texts)]
  encoded, _ = generation.encode(task, items, family, folder)
  never = stops.build(encoded[0].tokenizer, [], [])
  encoded = [e._replace(stops=never) for e in encoded]
  return generation.queue(
    task, encoded, range(PROMPTS), PROMPTS, batch
  ), encoded
