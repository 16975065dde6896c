"""What a genotype of mergekit-evolve means: the recipe that it stands for.

A genotype is an array of genes [G, K, F, P]: groups of layers, models, filters
(the last is for the tensors that no filter fits) and parameters.
"""

import math
from collections.abc import Sequence

import numpy as np

from automerge_jax.recipes.document import (
  Recipe,
  Setting,
  Slice,
  Source,
  TokenizerSpec,
)
from automerge_jax.recipes.evolve import Evolution, Genome


def shape(genome: Genome, num_layers: int) -> tuple[int, int, int, int]:
  """Shape [G, K, F, P] of a genotype.

  Raises:
    ValueError: if groups do not fill the layers.
  """
  size = genome.layer_granularity
  if size >= 1 and num_layers % size:
    raise ValueError(
      f'layer_granularity {size} does not divide the {num_layers} layers of '
      f'{genome.models[0]}'
    )
  groups = num_layers // size if size >= 1 else 1
  filters = len(genome.filters) + 1
  return groups, len(genome.models), filters, len(genome.parameters)


def initial(evolution: Evolution, num_layers: int, seed: int = 0) -> np.ndarray:
  """Where the search starts, [G, K, F, P]: equal shares, density 1.

  With `random_init`, uniform in [0, 1) instead, drawn from the seed (mergekit
  draws other numbers).
  """
  of = shape(evolution.genome, num_layers)
  if evolution.random_init:
    return np.random.default_rng(seed).random(of, np.float32)
  start = np.full(of, 1 / len(evolution.genome.models), np.float32)
  for p, name in enumerate(evolution.genome.parameters):
    if name == 'density':
      start[..., p] = 1.0
  return start


def to_recipe(
  evolution: Evolution, genotype: np.ndarray, num_layers: int
) -> Recipe:
  """The recipe that mergekit-evolve makes of a genotype.

  Args:
    evolution: the file.
    genotype: genes [G, K, F, P], or flat in that order.
    num_layers: L.
  """
  genome = evolution.genome
  of = shape(genome, num_layers)
  genes = np.asarray(genotype).reshape(of)
  if genome.merge_method == 'slerp':
    return of_pairs(evolution, pairs(genes[:, :, 0, 0]), num_layers)
  genes = expressed(genome, genes)
  if genome.smooth:
    sources = [
      Source(model, _settings(genome, genes[:, k]))
      for k, model in enumerate(genome.models)
    ]
    return _recipe(genome, [Slice(tuple(_with_base(genome, sources, None)))])
  parts = []
  for group, layers in enumerate(spans(genome, num_layers)):
    sources = [
      Source(model, _settings(genome, genes[group : group + 1, k]), layers)
      for k, model in enumerate(genome.models)
    ]
    parts.append(Slice(tuple(_with_base(genome, sources, layers))))
  return _recipe(genome, parts)


def expressed(genome: Genome, genes: np.ndarray) -> np.ndarray:
  """Values of the parameters from genes [G, K, F, P]: signs and limits."""
  values = np.array(genes)
  for p, name in enumerate(genome.parameters):
    if name == 'density':
      values[..., p] = np.clip(np.abs(values[..., p]), 0, 1)
    elif not genome.allow_negative_weights:
      values[..., p] = np.abs(values[..., p])
  return values


def spans(genome: Genome, num_layers: int) -> list[tuple[int, int]]:
  """Layers [start, end) of each group, G."""
  groups = shape(genome, num_layers)[0]
  size = num_layers // groups
  return [(i * size, (i + 1) * size) for i in range(groups)]


def pairs(genes: np.ndarray) -> list[tuple[int, int, float]]:
  """SLERP's (first, second, t) of each group, from genes [G, K].

  The two models with the largest genes, signs counted; t is the second's share
  by softmax.
  """
  found = []
  for row in genes:
    first, second = (int(k) for k in np.argsort(-row, kind='stable')[:2])
    gap = float(row[first]) - float(row[second])
    found.append((first, second, 1 / (1 + math.exp(gap))))
  return found


def of_pairs(
  evolution: Evolution,
  chosen: Sequence[tuple[int, int, float]],
  num_layers: int,
) -> Recipe:
  """The recipe of a SLERP of (first, second, t) in each group."""
  genome = evolution.genome
  parts = []
  layers = spans(genome, num_layers)
  for (first, second, t), span in zip(chosen, layers, strict=True):
    weights = ({}, {})
    if genome.tokenizer_source is not None:
      weights = ({'weight': 1 - t}, {'weight': t})
    sources = [
      Source(genome.models[k], own, span)
      for k, own in zip((first, second), weights, strict=True)
    ]
    parts.append(
      Slice(
        tuple(_with_base(genome, sources, span)),
        base_model=genome.models[first],
        parameters={'t': t},
      )
    )
  return _recipe(genome, parts)


def _settings(genome: Genome, values: np.ndarray) -> dict[str, Setting]:
  """Settings of one model from values [G, F, P]; a G of 1 is no gradient."""
  found = {}
  for p, name in enumerate(genome.parameters):
    entries = []
    for f, part in enumerate([*genome.filters, None]):
      value = [float(v) for v in values[:, f, p]]
      entry = {} if part is None else {'filter': part}
      entries.append(entry | {'value': value if len(value) > 1 else value[0]})
    found[name] = entries if genome.filters else entries[0]['value']
  return found


def _with_base(
  genome: Genome, sources: list[Source], layers: tuple[int, int] | None
) -> list[Source]:
  base = genome.base_model
  if base is None or base in genome.models:
    return sources
  return [*sources, Source(base, layers=layers)]


def _recipe(genome: Genome, parts: list[Slice]) -> Recipe:
  tokenizer = None
  if genome.tokenizer_source is not None:
    tokenizer = TokenizerSpec(genome.tokenizer_source)
  return Recipe(
    merge_method=genome.merge_method,
    slices=tuple(parts),
    base_model=genome.base_model,
    parameters={'normalize': genome.normalized, 'int8_mask': True},
    dtype='bfloat16',
    tokenizer=tokenizer,
  )
