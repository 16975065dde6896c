"""Leaves by name: flatten, rebuild, group, compare."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge_jax import trees

_KEYS = st.text('abcxyz_019', min_size=1, max_size=5)
_TREES = st.recursive(
  st.integers(),
  lambda inner: st.dictionaries(_KEYS, inner, min_size=1, max_size=4),
  max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))


@given(_TREES)
def test_unflatten_inverts_flatten(tree):
  leaves = trees.flatten(tree)
  assert trees.unflatten(leaves) == tree
  backwards = dict(reversed(leaves.items()))
  assert trees.unflatten(backwards) == tree


def test_flatten_names_dicts_tuples_and_fields():
  pair = collections.namedtuple('Pair', ['left', 'right'])
  tree = {'b': [1, 2], 'a': pair(3, {'c': 4})}
  assert trees.flatten(tree) == {
    'a/left': 3,
    'a/right/c': 4,
    'b/0': 1,
    'b/1': 2,
  }


@pytest.mark.parametrize('names', [('a', 'a/b'), ('a/b/c/d', 'a-x', 'a/b')])
def test_leaf_below_a_leaf_is_refused(names):
  with pytest.raises(ValueError, match='lies below another leaf'):
    trees.unflatten(dict.fromkeys(names, 0))


def test_group_takes_the_first_whole_match():
  patterns = [('mlp', r'layers/mlp.*'), ('norm', r'.*norm.*'), ('rest', '.*')]
  names = ['layers/mlp_norm/scale', 'stem/norm/bias', 'x/layers/mlp/kernel']
  assert trees.group(names, patterns) == {
    'layers/mlp_norm/scale': 'mlp',
    'stem/norm/bias': 'norm',
    'x/layers/mlp/kernel': 'rest',
  }


def test_group_names_the_leaf_that_matches_nothing():
  with pytest.raises(ValueError, match=r"'stem/word'.*'layers/\.\*'"):
    trees.group(['layers/a', 'stem/word'], [('layers', 'layers/.*')])


def test_difference_lists_each_kind():
  have = {'same': np.ones(3), 'shape': np.ones((2, 3)), 'extra': np.ones(1)}
  want = {'same': np.ones(3), 'shape': np.ones((3, 2)), 'gone': np.ones(1)}
  assert trees.difference(have, want) == [
    '- gone',
    '+ extra',
    '! shape: shape (2, 3), expected (3, 2)',
  ]


_SHAPES = st.dictionaries(_KEYS, st.sampled_from([(1,), (2,), ()]))


@given(_SHAPES, _SHAPES)
def test_difference_is_empty_only_for_equal_structures(have, want):
  arrays = [{k: np.zeros(s) for k, s in d.items()} for d in (have, want)]
  forth, back = trees.difference(*arrays), trees.difference(*arrays[::-1])
  assert (not forth) == (have == want)
  kinds = collections.Counter(line[0] for line in forth)
  mirrored = collections.Counter(line[0] for line in back)
  assert kinds['-'] == mirrored['+'] and kinds['!'] == mirrored['!']


def test_check_same_says_what_and_how_many():
  want = {f'layer{i:02}': np.ones(1) for i in range(25)}
  trees.check_same(want, want, 'expert 2')
  with pytest.raises(ValueError, match='expert 2: 25 tensors differ') as error:
    trees.check_same({}, want, 'expert 2')
  lines = str(error.value).splitlines()
  assert lines[1:] == [
    *(f'  - layer{i:02}' for i in range(20)),
    '  ... and 5 more',
  ]


def test_nearest_suggests_and_lists():
  hint = trees.nearest('densty', ['weight', 'density'])
  assert hint == "; did you mean 'density'? Valid: ['density', 'weight']"
  assert 'did you mean' not in trees.nearest('qqq', ['weight'])
