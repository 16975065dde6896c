"""Checkpoints merged by a peer, merged again here and compared."""

import json
import pathlib
from typing import NamedTuple

import checkpoint_recipes
import ml_dtypes
import numpy as np

from automerge_jax.io import safetensors
from experiments import merge

VOCABULARY = ('model.embed_tokens.weight', 'lm_head.weight')


class Compared(NamedTuple):
  """What a comparison found.

  Attributes:
    tensors: how many are compared.
    entries: how many are compared.
    unequal: entries that differ in some bit.
    worst: largest difference: of float32 relative where the value exceeds 1, of
      bfloat16 in units of the last place.
  """

  tensors: int
  entries: int
  unequal: int
  worst: float


def facts(recorded) -> dict:
  """What is recorded of each case beside its tensors."""
  return json.loads(str(recorded['facts']))


def theirs(recorded, case) -> dict[str, np.ndarray]:
  """The peer's tensors."""
  found, start = {}, 0
  for name, (kind, shape) in facts(recorded)[case]['tensors'].items():
    stop = start + int(np.prod(shape))
    part = recorded[case][start:stop].reshape(shape)
    found[name] = part.view(ml_dtypes.bfloat16) if kind == 'bfloat16' else part
    start = stop
  assert start == recorded[case].size
  return found


def ours(folder: pathlib.Path, case: str, text: str) -> pathlib.Path:
  """The folder that we merge from a recipe beside its models."""
  recipe = folder / f'{case}.yaml'
  recipe.write_text(text)
  out = folder / 'ours' / case
  out.parent.mkdir(exist_ok=True)
  # Shards of a few tensors: what is read back is an index and its parts.
  merge.run(recipe, out, max_shard_size='4KB')
  return out


def compare(
  folder: pathlib.Path, recorded, case: str, out: pathlib.Path | None = None
) -> Compared:
  """Our merge of a recorded case and the peer's.

  Names, shapes, types and what the config says are asserted to be the same.

  Args:
    folder: of the models.
    recorded: the peer's merges.
    case: which.
    out: what we merged; by default that is done here.
  """
  stated = facts(recorded)[case]
  out = out or ours(folder, case, stated['recipe'])
  have, want = safetensors.read(out), theirs(recorded, case)
  assert set(have) == set(want), case
  _check_config(out, stated)
  order = _rows(out, stated)
  differences, unequal = [], 0
  for name, peer in want.items():
    mine = have[name]
    assert mine.dtype == peer.dtype, (case, name)
    assert mine.shape == peer.shape, (case, name)
    if order is not None and name in VOCABULARY:
      mine, peer = mine[order[0]], peer[order[1]]
    a, b = mine.astype(np.float64), peer.astype(np.float64)
    unequal += int((a != b).sum())
    error = np.abs(a - b) / np.maximum(1, np.abs(b))
    if mine.dtype == ml_dtypes.bfloat16:
      scale = np.maximum(np.abs(a), np.abs(b))
      if case == 'half_computed':
        scale = np.maximum(scale, _largest_input(folder, name))
      error = np.abs(a - b) / unit(scale)
    if case == 'half_ties':
      error[_level(folder, name, 0.5)] = 0
    differences.append(error.ravel())
  every = np.concatenate(differences)
  return Compared(len(want), every.size, unequal, float(every.max()))


def tolerance(recorded, case: str) -> float:
  """The largest difference that a case may show."""
  if case == 'model_stock_rows':
    # Where 1 + (K - 1) c is nearly 0, as rows of 8 have it by chance,
    # mergekit's float32 cosines are off by more; ours are exact.
    return 1e-5
  if case == 'half_computed':
    return 3  # mergekit rounds deltas, products and sums, too
  return 1e-6 if recorded[case].dtype == np.float32 else 1


def unit(values):
  """Units in the last place of bfloat16, at least one of float32 at 1.

  Sums that cancel to almost nothing have the error of their terms.
  """
  return 2.0 ** (np.floor(np.log2(np.maximum(np.abs(values), 2.0**-16))) - 7)


def _largest_input(folder, name):
  """Largest magnitude of each entry in the models that `half_computed` uses."""
  tensors = [
    safetensors.read(folder / model)[name].astype(np.float64)
    for model in ('half', 'half_a', 'half_b')
  ]
  return np.abs(tensors).max(axis=0)


def _check_config(out, stated):
  config = json.loads((out / 'config.json').read_text())
  for key, value in stated['config'].items():
    if key == 'tie_word_embeddings' and VOCABULARY[1] in stated['tensors']:
      # mergekit leaves that of any of the models, even of one that ties.
      assert config[key] is False
      continue
    assert config[key] == value, key


def _rows(out, stated):
  """Rows of the same tokens, ours and theirs; None without a tokenizer.

  A union of vocabularies may stand in another order.
  """
  if stated['vocabulary'] is None:
    return None
  content = json.loads((out / 'tokenizer.json').read_text())
  own = dict(content['model']['vocab'])
  own |= {token['content']: token['id'] for token in content['added_tokens']}
  assert set(own) == set(stated['vocabulary'])
  padding = list(range(len(own), stated['config']['vocab_size']))
  tokens = list(own)
  return (
    [own[token] for token in tokens] + padding,
    [stated['vocabulary'][token] for token in tokens] + padding,
  )


def _level(folder, name, density):
  """Entries whose magnitude is just at the cut of an expert.

  Deltas of bfloat16 weights have equal magnitudes; mergekit leaves to an
  unstable sort which of them stay.
  """
  base = safetensors.read(folder / 'half')[name].astype(np.float32)
  found = np.zeros(base.shape, bool)
  for expert in ('half_a', 'half_b'):
    tensor = safetensors.read(folder / expert)[name].astype(np.float32)
    magnitude = np.abs(tensor - base)
    kept = max(1, int(density * magnitude.size))
    cut = np.sort(magnitude, axis=None)[-kept]
    found |= magnitude == cut
  return found


def changes(folder: pathlib.Path, merged) -> tuple[float, float]:
  """Share of entries that moved from the example's base, and mean distance."""
  base = safetensors.read(folder / 'models' / 'base')
  moved = np.concatenate(
    [
      (
        tensor.astype(np.float32)
        - base[name].astype(tensor.dtype).astype(np.float32)
      ).ravel()
      for name, tensor in merged.items()
    ]
  )
  return float((moved != 0).mean()), float(np.abs(moved).mean())


def exact_cases(recorded) -> list[str]:
  """Cases without random numbers."""
  return [case for case in facts(recorded) if case != checkpoint_recipes.RANDOM]
