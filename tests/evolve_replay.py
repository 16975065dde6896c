"""Recorded recipes of mergekit-evolve, made again by us and compared."""

import numpy as np

from automerge_jax import recipe as recipes
from automerge_jax.recipes import evolve, genotype

LAYERS = 4


def compare(recorded):
  """How many recipes agree; raises AssertionError where one differs."""
  agreed = 0
  for text, start, made in recorded:
    evolution = evolve.from_yaml(text)
    wanted = np.asarray(start, np.float32)
    np.testing.assert_array_equal(genotype.initial(evolution, LAYERS), wanted)
    for genes, theirs in made:
      genes = np.asarray(genes, np.float32)
      ours = genotype.to_recipe(evolution, genes, LAYERS)
      same(ours, recipes.from_yaml(theirs), evolution.genome.merge_method)
      again = recipes.from_yaml(recipes.to_yaml(ours))
      same(again, ours, 'exactly')
      agreed += 1
  return agreed


def same(ours, theirs, method):
  """Whether recipes are equal; SLERP's t to the last bits of its softmax."""
  if method != 'slerp':
    assert ours == theirs
    return
  found, wanted = _t(ours), _t(theirs)
  np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-7)
  assert found[0] == wanted[0]


def _t(recipe):
  """What is no share, and the shares."""
  plain, shares = [recipe.merge_method, recipe.base_model], []
  plain += [recipe.parameters, recipe.dtype, recipe.tokenizer]
  for part in recipe.slices:
    plain += [part.base_model, [(s.model, s.layers) for s in part.sources]]
    shares.append(part.parameters['t'])
    shares += [s.parameters.get('weight', 0.0) for s in part.sources]
  return plain, shares
