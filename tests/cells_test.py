"""Cells: every tensor in one cell, and where the recipe's filters put it."""

import functools

import numpy as np
import pytest

from automerge_jax.merging import layers
from automerge_jax.models import bert, llama
from automerge_jax.spaces import cells
from tests import tiny_decoder, tiny_encoder

L = 3


@functools.cache
def _family(kind):
  if kind == 'bert':
    config = tiny_encoder.CONFIG | {'num_hidden_layers': L}
    return bert.family(bert.config_from_hf(config))
  stored = list(tiny_decoder.tensors())
  if kind == 'untied':
    stored.append('lm_head.weight')
  config = tiny_decoder.CONFIG | {'tie_word_embeddings': kind != 'untied'}
  return llama.family(llama.config_from_hf(config, stored))


KINDS = ('bert', 'llama', 'untied')
DIVISIONS = ('coarse', 'fine', 'own', 'tensor', (('all', None),))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('components', DIVISIONS, ids=str)
@pytest.mark.parametrize('groups', [1, 2, L, (0, 1), (0, 2)], ids=str)
def test_a_recipe_finds_each_tensor_in_its_cell(kind, components, groups):
  family = _family(kind)
  found = cells.layered(family, groups, components)
  of_name = found.of_name
  assert set(of_name) == {key.stored for key in family.keys}
  assert set(of_name.values()) == set(range(len(found.names)))
  for key in family.keys:
    at = found.of_leaf[key.path]
    assert at[() if key.layer is None else key.layer] == of_name[key.stored]
    layer = layers.layer_of(key.stored)
    if layer is None:
      last = len(found.spans) - 1
      group = 0 if layers.is_before(key.stored) else last
    else:
      (group,) = (
        i for i, (start, end) in enumerate(found.spans) if start <= layer < end
      )
    parts = cells.in_slice(found, group)
    assert parts[-1][0] is None
    cell = next(c for p, c in parts if p is None or p in key.stored)
    assert cell == of_name[key.stored], key.stored
    assert found.names[cell][0] in (None, group)


def test_groups_may_be_uneven():
  spans = cells.layered(_family('bert'), (0, 1)).spans
  assert spans == ((0, 1), (1, 3))
  assert cells.layered(_family('bert'), 2).spans == ((0, 2), (2, 3))


def test_the_head_is_a_cell_of_its_own():
  for kind, head in (
    ('bert', {'pooler.dense.weight', 'pooler.dense.bias'}),
    ('llama', {'model.norm.weight'}),
    ('untied', {'model.norm.weight', 'lm_head.weight'}),
  ):
    found = cells.layered(_family(kind), 2, 'own')
    at = found.names.index((None, 'head'))
    assert {n for n, cell in found.of_name.items() if cell == at} == head


def test_every_tensor_may_be_a_cell_of_its_own():
  for kind in KINDS:
    family = _family(kind)
    found = cells.layered(family, 1, 'tensor')
    assert len(found.names) == len({key.stored for key in family.keys})
    assert len(set(found.of_name.values())) == len(found.names)
  found = cells.layered(_family('bert'), 2, 'tensor')
  at = (1, 'attention.output.dense.weight')
  assert found.of_name[
    'encoder.layer.2.attention.output.dense.weight'
  ] == found.names.index(at)
  assert (1, 'output.dense.weight') in found.names
  assert (None, 'embeddings.LayerNorm.weight') in found.names


def test_patterns_of_ones_own():
  patterns = (('norms', 'LayerNorm'), ('queries', 'query'), ('rest', None))
  found = cells.layered(_family('bert'), L, patterns)
  assert found.names == ((0, 'norms'), (0, 'queries'), (0, 'rest'))
  at = found.of_leaf['layers/attention/query/kernel']
  np.testing.assert_array_equal(at, [1] * L)


def test_by_layer_keeps_components():
  found = cells.by_layer(cells.layered(_family('bert'), L, 'own'))
  again = cells.layered(_family('bert'), 1, 'own')
  assert found.names == again.names and found.of_name == again.of_name
  whole = cells.by_layer(cells.whole(_family('bert')))
  assert whole.names == tuple((i, 'all') for i in range(L))


@pytest.mark.parametrize(
  ('groups', 'components', 'message'),
  [
    (0, 'own', 'layers_per_group is 0; expected 1 to 3'),
    ((1, 2), 'own', r'begin at \[1, 2\]; expected 0 first'),
    ((0, 2, 2), 'own', 'then ascending'),
    ((0, 3), 'own', 'numbers below 3'),
    (1, 'corse', "'corse'.*did you mean 'coarse'"),
    (1, (('all', ''), ('rest', None)), 'the last filter, and no other'),
    (1, (('attention', 'attention'),), 'the last filter, and no other'),
    (1, (('mlp', 'mpl'), ('rest', None)), "'mlp', 'mpl'.*takes no tensor"),
  ],
)
def test_what_is_wrong_is_named(groups, components, message):
  with pytest.raises(ValueError, match=message):
    cells.layered(_family('bert'), groups, components)
