"""Every registered merge method obeys the same invariants, or says why not."""

import jax.numpy as jnp
import merging_matrix as matrix
import ml_dtypes
import numpy as np
import pytest
from merging_matrix import EVERY, EXEMPT, MATRIX, SHAPES, TABLE, K, key

from automerge_jax.merging import chunks, facts, resident
from automerge_jax.types import Stored


def over(methods):
  return pytest.mark.parametrize('method', methods, ids=key)


def has(method, *names):
  return any(p.name in names for p in method.parameters)


every = over(EVERY)
several = over([m for m in EVERY if m.sources[1] != 1])
densities = over([m for m in EVERY if has(m, 'density')])


def prove(invariant, method, model, merged, wanted, tolerance=1e-5):
  """Merged tensors are the wanted ones, exempt tensors are really not."""
  near = {
    name: matrix.is_near(merged[name], want, tolerance)
    for name, want in wanted.items()
  }
  exempt = EXEMPT.get(invariant, {}).get(key(method))
  within = exempt.within if exempt else ()
  for name, want in wanted.items():
    assert near[name] or name in within, (name, merged[name], want)
  if exempt:
    assert not all(near.values()), f'holds, though {exempt.reason}'
    exempt.instead(method, model, merged)


def test_the_table_is_the_registry():
  assert set(TABLE) == {key(method) for method in EVERY}
  assert len({key(method) for method in EVERY}) == len(EVERY)
  for invariant, exempt in EXEMPT.items():
    assert set(exempt) <= set(TABLE), invariant


@every
def test_the_usual_numbers_show_something(method):
  """Without which the invariants would say little."""
  model = matrix.draw(matrix.count(method))
  merged = matrix.merge(method, model)[MATRIX]
  experts = [expert[MATRIX] for expert in model.experts]
  for trivial in (model.base[MATRIX], *experts, np.mean(experts, axis=0)):
    assert not matrix.is_near(merged, trivial, 1e-3)


@every
def test_one_expert_comes_back(method):
  """I1, at natural scale; of two experts the one that is asked for."""
  model = matrix.draw(method.sources[0])
  row = TABLE[key(method)]
  told = row.natural(len(model.experts)) | (row.alone or {})
  merged = matrix.merge(method, model, told)
  prove('one', method, model, merged, model.experts[0])


@every
def test_no_change_gives_the_base(method):
  """I2."""
  model = matrix.draw(matrix.count(method))
  model = model._replace(experts=[model.base] * len(model.experts))
  merged = matrix.merge(method, model)
  prove('none', method, model, merged, model.base)
  if method.stack != 'weights':
    for name, base in model.base.items():
      np.testing.assert_array_equal(merged[name], base)


@every
def test_identical_experts_give_the_expert(method):
  """I3, at natural scale."""
  model = matrix.copies(matrix.count(method))
  told = TABLE[key(method)].natural(len(model.experts))
  merged = matrix.merge(method, model, told)
  prove('identical', method, model, merged, model.experts[0])


@densities
def test_trimmed_copies_of_an_expert_give_it_trimmed(method):
  """I3 of sparse methods."""
  row = TABLE[key(method)]
  many, one = (
    row.natural(k) | {'density': 0.5, 'normalize': 0.0, 'weight': 1 / k}
    for k in (K, 1)
  )
  merged = matrix.merge(method, matrix.copies(K), many)
  alone = matrix.merge(method, matrix.draw(K).ordered([0]), one)
  prove('copies', method, matrix.copies(K), merged, alone)


@pytest.mark.parametrize(('threshold', 'factor'), [(0.4, K), (0.6, 0)])
@pytest.mark.parametrize('name', ['consensus/paper', 'tall_mask/paper'])
def test_a_threshold_decides_on_identical_experts(name, threshold, factor):
  """I3: to each the sum of K matters while the threshold is below 1/(K-1)."""
  (method,) = (m for m in EVERY if key(m) == name)
  model = matrix.copies(K)
  merged = matrix.merge(method, model, {'threshold': threshold})
  for tensor, base in model.base.items():
    want = base + factor * model.deltas(tensor)[0]
    assert matrix.is_near(merged[tensor], want)


@several
@pytest.mark.parametrize('seed', [0, 1])
def test_order_of_experts_does_not_count(method, seed):
  """I4; what belongs to an expert moves with it."""
  model = matrix.draw(matrix.count(method), seed)
  told = matrix.values(method, TABLE[key(method)].usual, len(model.experts))
  order = (2, 0, 1) if len(model.experts) == 3 else (1, 0)
  back = matrix.merge(
    method, model.ordered(order), matrix.reordered(method, told, order)
  )
  once = matrix.merge(method, model)
  prove('order', method, model, back, once, 1e-4)


@every
@pytest.mark.parametrize(
  ('invariant', 'factor'),
  [('scale', 8.0), ('small', 2.0**-40), ('sign', -1.0)],
)
def test_scaled_deltas_scale_the_merge(method, invariant, factor):
  """I5, far below absolute floors too, and I6; what was measured stays."""
  model = matrix.draw(matrix.count(method), 2, zero=True)
  scaled = model.of(lambda x: x * np.float32(factor))
  once, merged = (matrix.merge(method, m) for m in (model, scaled))
  wanted = {name: tensor * factor for name, tensor in once.items()}
  prove(invariant, method, scaled, merged, wanted)


@every
def test_another_origin_shifts_the_merge(method):
  """Property b: the same tensor added to the base and all experts."""
  model, by = matrix.draw(matrix.count(method)), matrix.draw(1, 9).base
  shifted = model._replace(
    base={name: x + by[name] for name, x in model.base.items()},
    experts=[{n: x + by[n] for n, x in e.items()} for e in model.experts],
  )
  plain = matrix.merge(method, model)
  merged = matrix.merge(method, shifted)
  wanted = {name: x + by[name] for name, x in plain.items()}
  prove('shift', method, model, merged, wanted)


@every
def test_order_of_names_does_not_count(method):
  """Property c, to the last bit."""
  model = matrix.draw(matrix.count(method))
  forth = matrix.merge(method, model)
  back = matrix.merge(method, model, names=reversed(SHAPES))
  assert list(forth) == list(back)[::-1]
  for name, tensor in forth.items():
    np.testing.assert_array_equal(back[name], tensor)


@every
def test_half_precision_is_merged_in_float32_and_rounded_once(method):
  """Property d."""
  half, single = np.dtype(ml_dtypes.bfloat16), np.float32
  model = matrix.draw(matrix.count(method))
  stored = model.of(lambda x: x.astype(half), lambda x: x.astype(half))
  exact = stored.of(lambda x: x.astype(single), lambda x: x.astype(single))
  merged, wanted = (matrix.merge(method, m) for m in (stored, exact))
  finer = False
  for name, tensor in merged.items():
    assert tensor.dtype == single
    np.testing.assert_array_equal(tensor, wanted[name])
    last = chunks.cast(tensor.reshape(-1), half, method, name, {})
    error = np.abs(last.astype(single) - tensor.reshape(-1))
    assert last.dtype == half
    assert (error <= 2.0**-8 * np.abs(tensor.reshape(-1))).all()
    finer |= bool(error.any())
  # Arcee copies entries, which are of that precision already.
  assert finer or method.name == 'arcee_fusion'


@every
def test_compiled_and_op_by_op_are_the_same(method):
  """Property f."""
  count = matrix.count(method)
  model = matrix.draw(count, shapes={MATRIX: SHAPES[MATRIX]})
  told = matrix.values(method, TABLE[key(method)].usual, count)
  compiled = matrix.merge(method, model)[MATRIX]
  base, experts = model.base[MATRIX], [e[MATRIX] for e in model.experts]
  stack = resident.tensor_stack(method, base, experts)
  known = facts.known(method, told, count)
  whole = (
    method.whole(lambda: iter([(MATRIX, stack)]), known) if method.whole else {}
  )
  measured = model.statistics[MATRIX]
  stored = Stored(MATRIX, base, stack, known, 5, measured, whole)
  arrays = [
    {k: jnp.asarray(v) for k, v in part.items()}
    for part in (
      {k: np.float32(v) for k, v in told.items()},
      facts.compute(method, stored),
    )
  ]
  merged = method.merge(*arrays, jnp.asarray(base), jnp.asarray(stack))
  np.testing.assert_allclose(merged, compiled, rtol=1e-6, atol=1e-6)


@every
def test_transposed_matrices_give_the_transposed_merge(method):
  """Property g; methods that look at inputs are told where they are."""
  model = matrix.draw(matrix.count(method), shapes={MATRIX: (8, 6)})
  flipped = model.of(lambda x: x.T, lambda x: x.T)
  found = dict(model.statistics[MATRIX])
  found['fisher'] = found['fisher'].swapaxes(1, 2)
  flipped = flipped._replace(statistics={MATRIX: found})
  told = dict(TABLE[key(method)].usual)
  once = matrix.merge(method, model, told)
  if has(method, 'in_axis'):
    told['in_axis'] = -2.0
  merged = matrix.merge(method, flipped, told)
  prove('transposed', method, flipped, merged, {MATRIX: once[MATRIX].T}, 1e-4)
  if has(method, 'in_axis'):
    square = matrix.draw(shapes={MATRIX: (6, 6)})
    one, other = (
      matrix.merge(method, square, told | {'in_axis': axis})[MATRIX]
      for axis in (-1.0, -2.0)
    )
    assert not matrix.is_near(other, one)


@over([m for m in EVERY if has(m, 'density', 'select_topk')])
@pytest.mark.parametrize('density', [0.2, 0.37, 0.8])
def test_density_is_the_requested_one(method, density):
  """Property a: as many entries change as asked for, up to one a tensor."""
  shapes = {MATRIX: (64, 63), 'layer.bias': (33,), 'scale': ()}
  # What varies has to be seen in two; more would cancel where signs differ.
  model = matrix.draw(
    1 if has(method, 'density') else 2,
    2,
    zero=True,
    shapes=shapes,
    same=0,
    grid=2**22,
  )
  name = 'density' if has(method, 'density') else 'select_topk'
  told = {name: density}
  if has(method, 'weight'):
    told |= {'weight': 1.0}
  merged = matrix.merge(method, model, told)
  sizes = {name: tensor.size for name, tensor in merged.items()}
  changed = {n: np.count_nonzero(tensor) for n, tensor in merged.items()}
  off = {n: changed[n] - density * size for n, size in sizes.items()}
  if key(method) in matrix.RANDOM:
    for n, size in sizes.items():
      spread = np.sqrt(size * density * (1 - density))
      assert abs(off[n]) < max(5 * spread, 1)
    assert max(map(abs, off.values())) > 1
  elif key(method) == 'ties/paper':  # of the whole model
    assert abs(sum(off.values())) <= 1
    assert max(map(abs, off.values())) > 1
  elif key(method).endswith('paper') and has(method, 'gamma'):  # of each row
    for row in merged[MATRIX]:
      assert abs(np.count_nonzero(row) - density * row.size) <= 1
    assert abs(off['layer.bias']) <= 1 and changed['scale'] == 1
    assert abs(off[MATRIX]) > 1
  else:
    assert max(map(abs, off.values())) <= 1
