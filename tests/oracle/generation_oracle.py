"""Greedy generation against torch, live: SmolLM2, and drawn prompts."""

import json
import pathlib

import jax
import numpy as np
import pytest

from automerge_jax.io import assets, gguf, safetensors
from automerge_jax.models import registry
from automerge_jax.tasks import decoding, generation
from automerge_jax.tasks.partition import Item
from tests import tiny_decoder
from tests.generation_test import _encoded, _run, _stops

pytestmark = pytest.mark.oracle

PROMPTS = [
  'The capital of France is',
  'Question: What is 12 + 7?\nAnswer:',
  'Once upon a time, in a village by the sea, there lived',
  'The three most important inventions of the nineteenth century were',
  'def fibonacci(n):\n',
  'Shares of the mining group rose 3.5 pct on Tuesday, after the board said '
  'that it would pay a dividend of 12 cts a share against nine a year ago. It',
  'Dear Sir or Madam,\n\nI am writing to',
  'Water boils at',
]
NEW_TOKENS = 32


def _padded(prompts):
  made = np.full((len(prompts), max(map(len, prompts))), -1)
  for row, prompt in zip(made, prompts, strict=True):
    row[: len(prompt)] = prompt
  return made


def test_smollm2_writes_what_torch_writes(ask_peer, tmp_path):
  folder = tmp_path / 'smollm2'
  gguf.to_hugging_face(assets.fetch('smollm2') / 'model.gguf', folder)
  family, params = registry.load(folder)
  items = [Item(str(i), t, 0, answers=('x',)) for i, t in enumerate(PROMPTS)]
  task = generation.Task('oracle', 64, NEW_TOKENS)
  encoded, _ = generation.encode(task, items, family, folder)
  queue = generation.queue(task, encoded, np.arange(8), 8, batch=4)
  made = jax.jit(lambda p, q: decoding.generate(family, p, q))(params, queue)
  ours = np.empty((8, NEW_TOKENS), np.int32)
  ours[queue.slot] = made.tokens
  theirs = ask_peer(
    'oracle/generation_peer.py',
    folder,
    NEW_TOKENS,
    json.dumps(list(encoded[0].stops.ends)),
    8,
    prompts=_padded([e.prompt for e in encoded]),
  )['tokens']
  np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('seed', range(3))
def test_random_llama_writes_what_torch_writes(ask_peer, tmp_path, seed):
  draw = np.random.default_rng(seed)
  folder = pathlib.Path(tmp_path)
  safetensors.write(folder, tiny_decoder.tensors(seed))
  (folder / 'config.json').write_text(json.dumps(tiny_decoder.CONFIG))
  family, params = registry.load(folder)
  prompts = [
    draw.integers(3, tiny_decoder.VOCAB, draw.integers(1, 30)).tolist()
    for _ in range(17)
  ]
  ends = sorted({int(e) for e in draw.integers(3, tiny_decoder.VOCAB, 3)})
  ours, _, _ = _run(
    family,
    params,
    _encoded(prompts, _stops(tiny_decoder.VOCAB, ends)),
    new=20,
    batch=int(draw.integers(1, 9)),
    tokens_per_chunk=int(draw.integers(30, 300)),
  )
  theirs = ask_peer(
    'oracle/generation_peer.py',
    folder,
    20,
    json.dumps(ends),
    17,
    prompts=_padded(prompts),
  )['tokens']
  np.testing.assert_array_equal(ours, theirs)
