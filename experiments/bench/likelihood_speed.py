"""SmolLM2 likelihoods beside lm-eval's Hugging Face backend at batch 16.

Two sets of real texts: yes/no and positive/negative prompts, whose answers are
one token, and true against three false continuations of news, of ten words.
"""

import functools
import pathlib
import sys

import jax
import numpy as np

from automerge_jax.models import registry
from automerge_jax.tasks import (
  continuations,
  language_sources,
  likelihood,
  packing,
)
from experiments.bench import turns

PROMPTS = 100  # of each of two tasks
STORIES = 100
_PROMPT_WORDS, _ENDING_WORDS = 18, 10  # of a story's 28
TOKENS_PER_CHUNK = 2048

Pairs = list[tuple[str, str]]


def words() -> Pairs:
  """Prompts with the two words that may answer them."""
  return [
    (example.text, choice)
    for name in ('lm_sarcasm', 'lm_movie')
    for example in language_sources.SOURCES[name]().train[:PROMPTS]
    for choice in example.choices
  ]


def endings() -> Pairs:
  """Beginnings of news with their own ending and those of the next three."""
  examples = language_sources.SOURCES['lm_topic']().train
  texts = [
    example.text.partition('\n')[0].split()[1:]
    for example in examples[:: len(examples) // STORIES][:STORIES]
  ]
  return [
    (
      ' '.join(text[:_PROMPT_WORDS]),
      ' ' + ' '.join(other[_PROMPT_WORDS:][:_ENDING_WORDS]),
    )
    for i, text in enumerate(texts)
    for other in (texts[(i + step) % len(texts)] for step in range(4))
  ]


SETS = {'words': words, 'endings': endings}


def figures(
  ask: turns.Ask, folder: pathlib.Path, repeats: int
) -> dict[str, float]:
  """Seconds and ratios of each set, and the share of the matmul rate."""
  model = registry.load(folder)
  params = jax.device_put(model.params)
  run = jax.jit(
    functools.partial(likelihood.read_out, model.family), static_argnums=2
  )
  found = {}
  work = spent = 0.0
  for name, pairs in ((name, make()) for name, make in SETS.items()):
    ours = functools.partial(_score, run, params, folder, pairs)
    timed = turns.compare(ours, ask, 'likelihood', pairs, repeats)
    nats = np.array([value for value, _ in timed.peer_found])
    worst = float(np.abs(timed.found[0] - nats).max())
    packed = _packed(folder, pairs)
    work += flops(params, packed, len(pairs))
    spent += timed.ours
    found |= {
      f'likelihood_{name}_s': round(timed.ours, 3),
      f'likelihood_{name}_torch_s': round(timed.peer, 3),
      f'likelihood_{name}_speed_vs_torch': round(timed.peer / timed.ours, 3),
      f'likelihood_{name}_requests': len(pairs),
      f'likelihood_{name}_tokens': int((packed.inputs['mask'] > 0).sum()),
      f'likelihood_{name}_tokens_unshared': _unshared(folder, pairs),
      f'likelihood_{name}_largest_difference_nats': round(worst, 6),
    }
    print(found, file=sys.stderr)
  rate = turns.matmul_rate()
  found |= {
    'smollm2_likelihood_speed_vs_torch': min(
      found[f'likelihood_{name}_speed_vs_torch'] for name in SETS
    ),
    'likelihood_gflop': round(work / 1e9, 1),
    'matmul_gflop_s': round(rate / 1e9, 1),
    'matmul_rate_fraction': round(work / spent / rate, 3),
  }
  return found


def flops(params, packed: packing.Packed, owners: int) -> float:
  """Of the matmuls of tokens that are no padding, each shared one once.

  Every weight of a layer's kernels counts for every token; attention counts
  the pairs that see each other, the vocabulary head what is really read.
  """
  kernels = [
    leaf for leaf in jax.tree.leaves(params['layers']) if leaf.ndim == 3
  ]
  weights = sum(leaf.size for leaf in kernels)
  inputs = packed.inputs
  tokens = int((inputs['mask'] > 0).sum())
  pairs = int((inputs['positions'] + 1)[inputs['mask'] > 0].sum())
  query = params['layers']['attention']['query']['kernel']
  vocabulary, width = params['stem']['word']['embedding'].shape
  reads = sum(
    len(np.unique(target[owner < owners]))
    for target, owner in zip(packed.target, packed.owner, strict=True)
  )
  attention = 2 * 2 * pairs * query.shape[0] * query.shape[-1]
  return 2.0 * weights * tokens + attention + 2.0 * reads * vocabulary * width


def _score(run, params, folder, pairs: Pairs):
  packed = _packed(folder, pairs)
  return jax.device_get(run(params, packed, len(pairs)))


def _packed(folder: pathlib.Path, pairs: Pairs) -> packing.Packed:
  coder = continuations.coder(folder)
  asked = continuations.requests(coder, pairs)
  return packing.pack(
    asked, range(len(asked)), tokens_per_chunk=TOKENS_PER_CHUNK
  )


def _unshared(folder: pathlib.Path, pairs: Pairs) -> int:
  asked = continuations.requests(continuations.coder(folder), pairs)
  return sum(len(r.context) + len(r.continuation) - 1 for r in asked)
