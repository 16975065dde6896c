"""TSV, Iso, STAR and WUDI against definitions worked out here in float64."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge_jax.merging import facts, registry
from automerge_jax.merging.methods import iso, orientation, spectral
from automerge_jax.types import Stored

METHODS = ('tsv_m', 'iso_c', 'iso_cts', 'star', 'wudi')
SHAPES = ((12, 9), (9, 12), (31, 6), (2, 20), (8, 8))
many = settings(max_examples=20, deadline=None)
methods = pytest.mark.parametrize('name', METHODS)
shapes = pytest.mark.parametrize('shape', SHAPES, ids=str)


def merge(name, deltas, base=None, tensor='x.weight', **stated):
  """The merge of experts with these deltas, as a search and export do it."""
  method, count = registry.get(name), len(deltas)
  deltas = np.asarray(deltas, np.float32)
  values = {
    p.name: (p.default,) * count if p.per_expert else p.default
    for p in method.parameters
  } | stated
  base = np.zeros(deltas.shape[1:], np.float32) if base is None else base
  stored = Stored(tensor, base, deltas, facts.settings(method, values, count))
  computed = facts.compute(method, stored)
  numbers = {k: np.asarray(v, np.float32) for k, v in values.items()}
  return np.asarray(jax.jit(method.merge)(numbers, computed, base, deltas))


def draw(seed, shape, count=3):
  return np.random.default_rng(seed).normal(size=(count, *shape)).astype('f4')


def near(have, want, tolerance=2e-5):
  scale = max(np.abs(want).max(), 1e-30)
  np.testing.assert_allclose(have, want, rtol=0, atol=tolerance * scale)


def low_rank(matrix, rank):
  u, s, v = np.linalg.svd(matrix, full_matrices=False)
  return (u[:, :rank] * s[:rank]) @ v[:rank]


def orthonormal(columns):
  """The polar factor X (XᵀX)^-1/2 of a matrix of full column rank."""
  values, vectors = np.linalg.eigh(columns.T @ columns)
  return columns @ (vectors / np.sqrt(values)) @ vectors.T


def tsv_reference(deltas):
  count = min(deltas.shape[1:]) // len(deltas)
  if not count:
    return deltas.mean(0)
  left, right, values = [], [], []
  for delta in deltas:
    # Singular vectors from the two Gram matrices, signs by the delta itself.
    squares, u = np.linalg.eigh(delta @ delta.T)
    u = u[:, ::-1][:, :count]
    s = np.sqrt(squares[::-1][:count])
    left.append(u)
    values.append(s)
    right.append(delta.T @ u / s)
  u, v = np.concatenate(left, 1), np.concatenate(right, 1)
  return orthonormal(u) @ np.diag(np.concatenate(values)) @ orthonormal(v).T


@pytest.mark.parametrize('shape', [(40, 6), (6, 40), (9, 7)], ids=str)
@pytest.mark.parametrize('rank', [2, 6])
def test_singular_values_and_polar_factor(shape, rank):
  rng = np.random.default_rng(20)
  matrix = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
  matrix = matrix.astype('f4')
  left, values, right = spectral.svd(matrix)
  assert left.dtype == values.dtype == right.dtype == np.float32
  want = np.linalg.svd(matrix.astype('f8'))[1]
  near(values, want)
  near((left * values) @ right, matrix)
  kept = left[:, :rank], right[:rank].T
  for vectors in kept:
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(rank), atol=1e-4)
  isometry = spectral.polar(matrix)
  near(isometry, kept[0] @ kept[1].T, 1e-4)
  near(np.linalg.svd(isometry)[1][:rank], np.ones(rank))
  assert np.linalg.norm(isometry) == pytest.approx(rank**0.5, rel=1e-5)


@shapes
def test_tsv_is_the_published_formula(shape):
  deltas = draw(0, shape)
  near(merge('tsv_m', deltas), tsv_reference(deltas.astype('f8')), 1e-4)


@shapes
def test_iso_c_is_the_scaled_polar_factor(shape):
  deltas = draw(1, shape)
  total = deltas.astype('f8').sum(0)
  tall = total if shape[0] >= shape[1] else total.T
  factor = orthonormal(tall) * np.linalg.svd(total)[1].mean()
  near(merge('iso_c', deltas), factor if tall is total else factor.T)


@shapes
def test_iso_cts_is_the_published_formula(shape):
  deltas = draw(2, shape)
  merged = merge('iso_cts', deltas, common=0.5)
  shared, each = iso.ranks(min(shape), 3, 0.5)
  assert shared + 3 * each == min(shape)
  u, s, v = np.linalg.svd(deltas.astype('f8').sum(0), full_matrices=False)
  span = u[:, :shared]
  left, values, right = [span], list(s[:shared]), [v[:shared].T]
  for delta in deltas:
    rest = delta - span @ (span.T @ delta)
    squares, own = np.linalg.eigh(rest @ rest.T)
    own = own[:, ::-1][:, :each]
    s = np.sqrt(squares[::-1][:each])
    left.append(own)
    values += list(s)
    right.append(rest.T @ own / s)
  isotropic = (
    orthonormal(np.concatenate(left, 1))
    @ orthonormal(np.concatenate(right, 1)).T
  )
  near(merged, isotropic * np.mean(values), 1e-4)
  np.testing.assert_array_equal(
    merge('iso_cts', deltas, common=1.0), merge('iso_c', deltas)
  )


@pytest.mark.parametrize('fraction', [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize('size', [1, 2, 7, 64])
def test_iso_cts_fills_the_rank(size, fraction):
  for experts in (1, 2, 3, 5):
    shared, each = iso.ranks(size, experts, fraction)
    assert shared >= 0 and each >= 0 and shared + experts * each == size


@shapes
@pytest.mark.parametrize('eta', [0.2, 0.4, 0.9, 1.0])
def test_star_keeps_the_fewest_triplets_and_their_sum(shape, eta):
  deltas = draw(3, shape)
  want = np.zeros(shape)
  for delta in deltas.astype('f8'):
    s = np.linalg.svd(delta)[1]
    rank = next(
      r for r in range(1, len(s) + 1) if s[:r].sum() >= eta * s.sum() - 1e-9
    )
    want += low_rank(delta, rank) * s.sum() / s[:rank].sum() / len(deltas)
  near(merge('star', deltas, eta=eta), want)


def wudi_loss(merged, deltas):
  return sum(
    np.square((merged - d) @ d.T).sum() / np.square(d).sum() for d in deltas
  )


@shapes
@pytest.mark.parametrize('ridge', [0.0, 1e-6, 0.3])
def test_wudi_is_the_stationary_point(shape, ridge):
  deltas = draw(4, shape)
  exact = deltas.astype('f8')
  merged = merge('wudi', deltas, ridge=ridge).astype('f8')
  curvature = sum(d.T @ d / np.square(d).sum() for d in exact)
  pull = ridge * np.trace(curvature)  # in mean eigenvalues of the reached span
  rank = np.linalg.matrix_rank(curvature, hermitian=True)
  gradient = sum(
    (merged - d) @ (d.T @ d) / np.square(d).sum() for d in exact
  ) + (merged - exact.sum(0)) * pull / len(curvature)
  assert rank == min(3 * shape[0], shape[1])
  assert np.abs(gradient).max() < 2e-6 * np.abs(exact).sum(0).max()
  assert wudi_loss(merged, exact) <= wudi_loss(exact.sum(0), exact)


def test_wudi_stays_in_the_span_of_the_experts():
  deltas = draw(5, (4, 30))
  merged = merge('wudi', deltas, ridge=0.0)
  rows = np.linalg.svd(np.concatenate(deltas), full_matrices=False)[2]
  near(merged @ rows.T @ rows, merged)
  assert np.linalg.norm(merged - deltas.sum(0)) > 0.1


def test_wudi_of_a_conv1d_is_that_of_its_transpose():
  deltas = draw(6, (6, 10))
  flipped = merge(
    'wudi', deltas.swapaxes(1, 2), tensor='h.0.attn.c_proj.weight'
  )
  near(flipped.T, merge('wudi', deltas), 1e-6)
  stated = merge('wudi', deltas.swapaxes(1, 2), in_axis=-2)
  np.testing.assert_array_equal(stated, flipped)
  assert np.abs(merge('wudi', deltas, in_axis=-2) - flipped.T).max() > 1e-2


def test_inputs_axis_by_name_and_contradictions():
  shape = (6, 18)
  assert orientation.in_axis('h.3.attn.c_attn.weight', shape, 0) == -2
  assert (
    orientation.in_axis('transformer.h.3.mlp.c_proj.weight', shape, 0) == -2
  )
  assert orientation.in_axis('encoder.layer.0.output.weight', shape, 0) == -1
  assert orientation.in_axis('h.3.attn.c_attn.weight', shape, -1) == -1
  with pytest.raises(ValueError, match='set in_axis to -1'):
    orientation.in_axis('h.3.mlp.c_fc.weight', (18, 6), 0)
  with pytest.raises(ValueError, match='in_axis is 1'):
    orientation.in_axis('x.weight', shape, 1)
  assert not orientation.is_linear('model.embed_tokens.weight', shape)
  assert not orientation.is_linear('transformer.wte.weight', shape)
  assert orientation.is_linear('lm_head.weight', shape)


def test_wudi_treats_embeddings_as_told():
  deltas = draw(7, (5, 4))
  for factor in (0.0, 1.0):
    merged = merge('wudi', deltas, tensor='wte.weight', others=factor)
    near(merged, factor * deltas.mean(0), 1e-6)


@methods
def test_tensors_that_are_no_matrices_are_averaged(name):
  for shape in ((7,), (), (2, 3, 4)):
    deltas = draw(8, shape)
    merged = merge(name, deltas, **{'lambda': 0.5})
    np.testing.assert_allclose(merged, 0.5 * deltas.mean(0), atol=1e-6)


@methods
def test_no_change_and_no_lambda_give_the_base(name):
  base = draw(9, (6, 5))[0]
  nothing = np.zeros((3, 6, 5))
  np.testing.assert_array_equal(merge(name, nothing, base), base)
  deltas = draw(10, (6, 5))
  still = merge(name, deltas, base, **{'lambda': 0.0})
  np.testing.assert_array_equal(still, base)


@methods
def test_one_expert(name):
  delta = draw(11, (6, 9), 1)
  if name.startswith('iso'):  # isotropised: same vectors, one singular value
    u, s, v = np.linalg.svd(delta[0], full_matrices=False)
    near(merge(name, delta, common=1.0), u @ v * s.mean())
  else:
    near(merge(name, delta, eta=1.0), delta[0])


@methods
def test_identical_experts(name):
  delta = draw(12, (9, 7), 1)[0]
  merged = merge(name, np.stack([delta] * 3), ridge=0.0, eta=1.0)
  if name == 'tsv_m':  # ⌊7 / 3⌋ triplets, once
    near(merged, low_rank(delta, 2))
  elif name == 'iso_c':
    u, s, v = np.linalg.svd(delta, full_matrices=False)
    near(merged, 3 * s.mean() * (u @ v))
  elif name == 'iso_cts':  # nothing specific is left but what the span lacks
    assert np.isfinite(merged).all()
    assert np.linalg.norm(merged) <= 3 * np.linalg.norm(delta)
  else:
    near(merged, delta)


@methods
@many
@given(seed=st.integers(0, 99), order=st.permutations(range(3)))
def test_order_scale_and_sign(name, seed, order):
  deltas = draw(seed, (8, 6))
  once = merge(name, deltas)
  near(merge(name, deltas[list(order)]), once, 1e-4)
  near(merge(name, -deltas), -once, 1e-4)
  near(merge(name, deltas * np.float32(2.0**-12)), once * 2.0**-12, 1e-4)
  near(merge(name, deltas, **{'lambda': 1.5}), 1.5 * once, 1e-6)


@methods
def test_transposition(name):
  deltas = draw(13, (8, 6))
  flipped = merge(name, deltas.swapaxes(1, 2), in_axis=-2)
  if name == 'iso_cts':  # only left singular vectors are projected out
    assert np.abs(flipped.T - merge(name, deltas)).max() > 1e-3
  else:
    near(flipped.T, merge(name, deltas))


def test_tsv_of_orthogonal_experts_is_their_truncated_sum():
  blocks = draw(14, (4, 3), 2)
  deltas = np.zeros((2, 8, 6), 'f4')
  deltas[0, :4, :3], deltas[1, 4:, 3:] = blocks
  near(merge('tsv_m', deltas), deltas.sum(0))


def test_isotropic_merges_of_low_rank_fill_no_other_direction():
  """As of LoRA adapters: neither noise there, nor a mean over zeros."""
  small = draw(7, (3, 4))  # rank 3, of each expert and of the sum
  rng = np.random.default_rng(8)
  rows = orthonormal(rng.normal(size=(40, 3)))
  columns = orthonormal(rng.normal(size=(24, 4)))
  deltas = np.stack([rows @ d @ columns.T for d in small]).astype('f4')
  want = rows @ merge('iso_c', small) @ columns.T
  near(merge('iso_c', deltas), want, 1e-4)
  nuclear = np.linalg.svd(deltas.sum(0))[1].sum()
  merged = np.linalg.svd(merge('iso_c', deltas))[1]
  assert merged.sum() == pytest.approx(nuclear, rel=1e-4)
  # The common directions have room for all there is.
  near(merge('iso_cts', deltas, common=0.5), want, 1e-4)


@pytest.mark.parametrize('method', ['iso_c', 'iso_cts'])
def test_isotropic_merges_of_deltas_that_cancel_are_finite(method):
  delta = draw(9, (6, 8))[0]
  merged = merge(method, np.stack([delta, -delta]))
  assert np.isfinite(merged).all()
  if method == 'iso_c':
    assert not merged.any()


def test_settings_out_of_range_are_named():
  deltas = draw(16, (4, 4))
  for name, stated in (
    ('star', {'eta': 0.0}),
    ('iso_cts', {'common': 1.2}),
    ('wudi', {'ridge': -1.0}),
  ):
    (setting,) = stated
    with pytest.raises(ValueError, match=f'{setting} is '):
      merge(name, deltas, **stated)
