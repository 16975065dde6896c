"""LoRA adapters in and out: against PEFT's merging, exact ranks, refusals."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge_jax.io import checkpoints, lora, lora_extraction, safetensors
from tests import lora_replay

GOLDEN = pathlib.Path(__file__).parent / 'testdata' / 'lora_peft_0.21.2.npz'
CONFIG = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 3}


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def _normal(*shape):
  rng = np.random.default_rng(sum(shape))
  return rng.normal(size=shape).astype(np.float32)


def _model(folder, **tensors):
  safetensors.write(folder, tensors)
  return checkpoints.open_checkpoint(folder)


def _adapter(folder, config=None, **tensors):
  stored = {f'{lora.PREFIX}{name}': t for name, t in tensors.items()}
  safetensors.write(folder, stored, lora.WEIGHTS)
  (folder / lora.CONFIG).write_text(json.dumps(CONFIG | (config or {})))
  return folder


@pytest.mark.parametrize('case', lora_replay.CASES)
def test_merged_as_peft_does(golden, tmp_path, case):
  lora_replay.check(golden, case, tmp_path)


def test_a_base_stored_without_the_prefix_of_its_model(golden, tmp_path):
  lora_replay.check(golden, 'gpt2', tmp_path, strip='transformer.')


def test_tensors_are_summed_when_asked_for(tmp_path):
  base = _model(tmp_path / 'base', **{'x.weight': _normal(3, 4)})
  a, b = _normal(2, 4), _normal(3, 2)
  folder = _adapter(
    tmp_path / 'a', **{'x.lora_A.weight': a, 'x.lora_B.weight': b}
  )
  with lora.open_lora(base, folder) as checkpoint:
    want = _normal(3, 4) + 1.5 * b @ a
    np.testing.assert_allclose(checkpoint.get('x.weight'), want, rtol=1e-6)
    assert not checkpoint.get('x.weight').flags.writeable
  path = f'{tmp_path / "base"}+{folder}'
  before = checkpoints.fingerprint(path)
  assert before != checkpoints.fingerprint(tmp_path / 'base')
  _adapter(folder, {'lora_alpha': 4})
  assert checkpoints.fingerprint(path) != before


@pytest.mark.parametrize(
  'config',
  [
    {'use_dora': True},
    {'peft_type': 'LOHA'},
    {'init_lora_weights': 'pissa'},
    {'layer_replication': [[0, 2]]},
  ],
)
def test_variants_are_refused_by_name(tmp_path, config):
  base = _model(tmp_path / 'base', x=_normal(2))
  folder = _adapter(tmp_path / 'a', config)
  ((key, _),) = config.items()
  with pytest.raises(ValueError, match=f'{key}=.*merge_and_unload'):
    lora.open_lora(base, folder)


def test_tensors_of_variants_are_refused_by_name(tmp_path):
  base = _model(tmp_path / 'base', **{'x.weight': _normal(3, 4)})
  vector = {'x.lora_magnitude_vector': _normal(3)}
  folder = _adapter(tmp_path / 'a', **vector)
  with pytest.raises(ValueError, match=r'x\.lora_magnitude_vector'):
    lora.open_lora(base, folder)


@pytest.mark.parametrize(
  'name, a, b, message',
  [
    ('y', (2, 4), (3, 2), r"adapts 'y' by .*no such weight"),
    ('x', (2, 4), None, r"adapts 'x' by \['A'\], but A and B are needed"),
    ('x', (2, 5), (3, 2), r'shapes \(2, 5\) and \(3, 2\).*\(3, 4\)'),
    ('x', (3, 4), (3, 3), r'and rank 2 in adapter_config'),
    ('x', (2, 4, 1), (3, 2, 1), r'only sums of matrices'),
  ],
)
def test_what_does_not_fit_is_named(tmp_path, name, a, b, message):
  base = _model(tmp_path / 'base', **{'x.weight': _normal(3, 4)})
  factors = {f'{name}.lora_A.weight': _normal(*a)}
  if b:
    factors[f'{name}.lora_B.weight'] = _normal(*b)
  with pytest.raises(ValueError, match=message):
    lora.open_lora(base, _adapter(tmp_path / 'a', **factors))


def test_folders_that_are_no_adapters(tmp_path):
  base = _model(tmp_path / 'base', x=_normal(2))
  (tmp_path / 'a').mkdir()
  with pytest.raises(FileNotFoundError, match=r'no adapter_config\.json'):
    lora.open_lora(base, tmp_path / 'a')
  (tmp_path / 'a' / lora.CONFIG).write_text('{"r": 3}')
  (tmp_path / 'a' / 'adapter_model.bin').write_bytes(b'')
  with pytest.raises(FileNotFoundError, match='safe_serialization=True'):
    lora.open_lora(base, tmp_path / 'a')
  safetensors.write(tmp_path / 'a', {}, lora.WEIGHTS)
  with pytest.raises(ValueError, match=r'damaged.*lora_alpha'):
    lora.open_lora(base, tmp_path / 'a')


@settings(max_examples=40, deadline=None)
@given(
  st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 12)
)
def test_truncation_is_that_of_the_svd(rows, columns, true_rank, rank):
  delta = _normal(rows, true_rank) @ _normal(true_rank, columns)
  a, b = lora_extraction.truncated(delta, rank)
  kept = min(rank, rows, columns)
  assert a.shape == (kept, columns)
  assert b.shape == (rows, kept)
  u, s, v = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
  error = np.linalg.norm(delta - b @ a)
  best = np.linalg.norm(delta - (u[:, :rank] * s[:rank]) @ v[:rank])
  assert abs(error - best) <= 2e-6 * s[0]
  if rank >= true_rank:
    assert error <= 2e-6 * s[0]


def _pair(tmp_path, true_rank):
  """Base and merged models: three matrices, a norm and a table differ."""
  before = {
    'm.layers.0.up.weight': _normal(8, 12),
    'm.layers.0.down.weight': _normal(12, 8),
    'm.layers.1.up.weight': _normal(8, 12),
    'm.layers.1.still.weight': _normal(8, 8),
    'm.norm.weight': _normal(8),
    'm.embed_tokens.weight': _normal(20, 8),
    'm.ids': np.arange(3),
  }
  after = dict(before)
  for name in list(before)[:3]:
    rows, columns = before[name].shape
    step = _normal(rows, true_rank) @ _normal(true_rank, columns)
    after[name] = before[name] + 0.1 * step
  after['m.norm.weight'] = before['m.norm.weight'] + 1
  after['m.embed_tokens.weight'] = before['m.embed_tokens.weight'] + 0.5
  base = _model(tmp_path / 'base', **before)
  return base, _model(tmp_path / 'merged', **after), before, after


def test_enough_rank_gives_the_difference_back(tmp_path):
  base, merged, before, after = _pair(tmp_path, 2)
  report = lora_extraction.extract(base, merged, 3, tmp_path / 'out')
  names = set(list(before)[:3])
  assert set(report['tensors']) == names
  assert all(error < 1e-5 for error in report['tensors'].values())
  assert set(report['layers']) == {'m.layers.0', 'm.layers.1'}
  assert report['left_out'] == pytest.approx(
    {'m.norm.weight': 8**0.5, 'm.embed_tokens.weight': 0.5 * 160**0.5}
  )
  left = sum(value**2 for value in report['left_out'].values())
  changed = sum(
    np.linalg.norm(after[name] - before[name]) ** 2 for name in names
  )
  assert report['total'] == pytest.approx((left / (left + changed)) ** 0.5)
  stored = json.loads((tmp_path / 'out' / lora_extraction.REPORT).read_text())
  assert stored == report
  with lora.open_lora(base, tmp_path / 'out') as checkpoint:
    for name in before:
      want = after[name] if name in names else before[name]
      np.testing.assert_allclose(checkpoint.get(name), want, atol=1e-5)


def test_too_little_rank_says_what_is_lost(tmp_path):
  base, merged, before, after = _pair(tmp_path, 5)
  errors = []
  for rank in (1, 3, 5):
    out = tmp_path / str(rank)
    report = lora_extraction.extract(base, merged, rank, out)
    with lora.open_lora(base, out) as checkpoint:
      for name, error in report['tensors'].items():
        delta = after[name] - before[name]
        left = np.linalg.norm(after[name] - checkpoint.get(name))
        assert error == pytest.approx(left / np.linalg.norm(delta), abs=1e-5)
    errors.append(report['layers']['m.layers.0'])
    base = checkpoints.open_checkpoint(tmp_path / 'base')
  assert errors[0] > errors[1] > 0.01 > 1e-5 > errors[2]


def test_a_matrix_smaller_than_the_rank_gets_its_own(tmp_path):
  small = {'x.weight': _normal(2, 9), 'y.weight': _normal(9, 9)}
  base = _model(tmp_path / 'base', **small)
  after = {n: t + _normal(9, 9)[: len(t)] for n, t in small.items()}
  merged = _model(tmp_path / 'merged', **after)
  lora_extraction.extract(base, merged, 4, tmp_path / 'out')
  config = json.loads((tmp_path / 'out' / lora.CONFIG).read_text())
  assert config['rank_pattern'] == config['alpha_pattern'] == {'x': 2}
  with lora.open_lora(base, tmp_path / 'out') as checkpoint:
    have = checkpoint.get('x.weight')
    np.testing.assert_allclose(have, after['x.weight'], atol=1e-5)


def test_extraction_refuses(tmp_path):
  base = _model(tmp_path / 'base', **{'x.weight': _normal(3, 4)})
  out = tmp_path / 'out'
  with pytest.raises(ValueError, match='no matrix of a linear layer differs'):
    lora_extraction.extract(base, base, 2, out)
  other = _model(tmp_path / 'other', **{'x.weight': _normal(4, 4)})
  with pytest.raises(ValueError, match=r'! x.weight: shape \(4, 4\)'):
    lora_extraction.extract(base, other, 2, out)
  nan = _normal(3, 4)
  nan[1, 1] = np.nan
  bad = _model(tmp_path / 'bad', **{'x.weight': nan})
  with pytest.raises(ValueError, match=r"bad has 1 NaN .*'x.weight'"):
    lora_extraction.extract(base, bad, 2, out)
  with pytest.raises(ValueError, match='rank of 1 or more, got 0'):
    lora_extraction.extract(base, bad, 0, out)
  assert not out.exists()
