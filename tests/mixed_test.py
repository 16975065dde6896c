"""Mixed methods: a branch is the method, and costs no more than it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.merging import chunks, mixed, registry
from automerge_jax.merging import facts as facts_lib
from automerge_jax.types import Stored
from tests import merging_matrix as matrix

SHAPES = {'layer.weight': (24, 18), 'layer.bias': (7,), 'scale': ()}


def _mixable(method, count):
  least, most = method.sources
  return (
    not method.whole
    and not method.statistics
    and method.name != 'passthrough'
    and least <= count <= (most or count)
  )


@functools.cache
def _group(semantics, count):
  """All methods of some semantics that take this number of experts, as one."""
  methods = tuple(
    m for m in matrix.EVERY if m.semantics == semantics and _mixable(m, count)
  )
  return methods, mixed.of(methods)


CASES = [
  (semantics, count, i)
  for semantics in registry.SEMANTICS
  for count in (1, 2, 3)
  for i in range(len(_group(semantics, count)[0]))
  # What takes any number is tried with three.
  if count == 3 or _group(semantics, count)[0][i].sources[1] is not None
]


def _told(methods, index, count):
  """What the mixed method is told, and what the chosen one alone."""
  own = [
    matrix.values(m, matrix.TABLE[matrix.key(m)].usual, count) for m in methods
  ]
  told = {
    f'{m.name}/{name}': value
    for m, values in zip(methods, own, strict=True)
    for name, value in values.items()
  }
  return told | {'method': float(index)}, own[index]


@pytest.mark.parametrize(('semantics', 'count', 'index'), CASES)
def test_a_branch_is_the_method(semantics, count, index):
  methods, every = _group(semantics, count)
  method = methods[index]
  told, own = _told(methods, index, count)
  model = matrix.draw(count, shapes=SHAPES, grid=2**20)
  for name, base in model.base.items():
    experts = [expert[name] for expert in model.experts]
    alone = chunks.merge_tensor(method, own, base, experts, name, 5)
    found = chunks.merge_tensor(every, told, base, experts, name, 5)
    np.testing.assert_array_max_ulp(found, alone, 1)


def test_all_but_those_that_look_further_are_cases():
  tried = {_group(s, count)[0][i] for s, count, i in CASES}
  assert {matrix.key(m) for m in set(matrix.EVERY) - tried} == {
    'passthrough/mergekit',
    'df_merge/paper',
    'fisher/paper',
    'regmean/paper',
    'ties/paper',
  }


@pytest.mark.parametrize('first', [0, 1, 2])
def test_passthrough_picks_an_expert_or_the_base(first):
  model = matrix.draw(2)
  every = mixed.of([registry.get('linear'), registry.get('passthrough')])
  told = {'method': 1.0, 'passthrough/first': float(first)}
  told |= {'linear/weight': (1.0, 0.0), 'linear/normalize': 1.0}
  for name, base in model.base.items():
    experts = [expert[name] for expert in model.experts]
    found = chunks.merge_tensor(every, told, base, experts, name)
    np.testing.assert_array_equal(found, [*experts, base][first])


def test_only_the_branch_that_is_chosen_runs():
  """Spherical merging has sines, TIES bit masks: neither is outside."""
  methods = [registry.get(n) for n in ('linear', 'ties', 'slerp')]
  every = mixed.of(methods)
  told, _ = _told(methods, 1, 2)
  model = matrix.draw(2, shapes={'m': (8, 6)})
  base, stack = model.base['m'], np.stack([e['m'] for e in model.experts])
  facts = facts_lib.compute(
    every,
    Stored('m', base, stack, facts_lib.settings(every, told, 2)),
  )
  coefficients = {k: np.asarray(v, np.float32) for k, v in told.items()}

  lowered = jax.jit(every.merge).lower(coefficients, facts, base, stack)
  text = lowered.as_text()
  assert text.count('stablehlo.case') == 1
  outside = re.sub(
    r'"stablehlo\.case".*?^ {4}\}\)', '', text, flags=re.S | re.M
  )
  for operation in ('multiply', 'sine', 'bitcast', 'subtract'):
    assert f'stablehlo.{operation}' in text
    assert f'stablehlo.{operation}' not in outside
  assert 'conditional(' in lowered.compile().as_text()


def test_gradients_reach_the_chosen_methods_numbers_only():
  methods = [registry.get(n) for n in ('linear', 'task_arithmetic')]
  every = mixed.of(methods)
  model = matrix.draw(2, shapes={'m': (8, 6)})
  base, stack = model.base['m'], np.stack([e['m'] for e in model.experts])
  told, _ = _told(methods, 1, 2)
  coefficients = {k: jnp.asarray(v, jnp.float32) for k, v in told.items()}

  @jax.jit
  @jax.grad
  def slope(coefficients):
    return jnp.sum(every.merge(coefficients, {}, base, stack) ** 2)

  found = slope(coefficients)
  assert np.abs(found['task_arithmetic/weight']).min() > 0
  np.testing.assert_array_equal(found['linear/weight'], 0)
  assert found['method'] == 0


@pytest.mark.parametrize(
  ('names', 'reason'),
  [
    ((), 'one or more'),
    (('linear', 'linear'), 'each once'),
    (('linear', 'fisher'), 'fisher.*measured data'),
    (('ties/paper', 'linear'), "ties.*'paper'.*whole models"),
  ],
)
def test_what_cannot_be_mixed_is_refused(names, reason):
  methods = [registry.get(*name.split('/')) for name in names]
  with pytest.raises(ValueError, match=reason):
    mixed.of(methods)
