"""Orbax checkpoints: round trips, resume steps, errors that name the leaf."""

import concurrent.futures
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from automerge_jax.io import checkpoints, orbax, safetensors


def _tree():
  params = {'layers': {'kernel': jnp.arange(6.0).reshape(2, 3)}}
  return {
    'params': params,
    'optimizer': optax.adamw(1e-3).init(params),
    'key': jax.random.key(7),
    'step': jnp.int32(5),
  }


def _assert_same(have, want):
  assert jax.tree.structure(have) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
    if jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_round_trip_with_structure(tmp_path):
  tree = _tree()
  orbax.save(tmp_path / 'x', tree, {'note': 'yes'})
  _assert_same(orbax.load(tmp_path / 'x', tree), tree)
  assert orbax.metadata(tmp_path / 'x') == {'note': 'yes'}


def test_load_without_structure_gives_numpy(tmp_path):
  tree = {'layers': {'kernel': jnp.arange(6.0).reshape(2, 3)}}
  orbax.save(tmp_path / 'x', tree)
  loaded = orbax.load(tmp_path / 'x')
  assert type(loaded['layers']['kernel']) is np.ndarray
  _assert_same(loaded, tree)


def test_save_replaces(tmp_path):
  orbax.save(tmp_path / 'x', {'a': np.zeros(2)})
  orbax.save(tmp_path / 'x', {'b': np.ones(3)})
  assert list(orbax.load(tmp_path / 'x')) == ['b']


def test_differences_are_listed(tmp_path):
  orbax.save(tmp_path / 'x', {'a': np.zeros(2), 'b': np.zeros((2, 3))})
  with pytest.raises(ValueError, match='checkpoint') as caught:
    orbax.load(tmp_path / 'x', {'c': np.zeros(2), 'b': np.zeros((3, 3))})
  message = str(caught.value)
  assert '- c' in message
  assert '+ a' in message
  assert '! b: shape (2, 3), expected (3, 3)' in message


def test_missing_checkpoint_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere'):
    orbax.load(tmp_path / 'nowhere')
  assert orbax.metadata(tmp_path / 'nowhere') is None


def test_steps_keep_the_newest(tmp_path):
  assert orbax.load_step(tmp_path / 'steps', _tree()) is None
  for step in (1, 2, 3):
    orbax.save_step(tmp_path / 'steps', step, {'x': jnp.full(2, step)})
  step, state = orbax.load_step(tmp_path / 'steps', {'x': jnp.zeros(2, int)})
  assert step == 3
  np.testing.assert_array_equal(state['x'], [3, 3])
  assert sorted(p.name for p in (tmp_path / 'steps').iterdir()) == ['2', '3']


def test_half_written_step_is_not_used(tmp_path):
  orbax.save_step(tmp_path / 'steps', 1, {'x': jnp.ones(2)})
  half = tmp_path / 'steps' / '2.orbax-checkpoint-tmp-1'
  half.mkdir()
  (half / 'state').write_text('')
  step, _ = orbax.load_step(tmp_path / 'steps', {'x': jnp.ones(2)})
  assert step == 1


class _State(NamedTuple):
  strategy: Any
  table: Any
  keys: Any
  nothing: Any
  empty: Any


def _state(step):
  """A state as optimizers have them: keys, None, empty and odd leaves."""
  odd = np.uint32([0x7FC00001, 0x80000000, 0x00000001, 0xFF800000])
  key = jax.random.key(step)
  return _State(
    optax.adamw(1e-3).init({'x': jnp.full(3, step, jnp.float32)}),
    {
      'odd': jnp.asarray(odd.view(np.float32)),
      'half': jnp.ones(2, jnp.bfloat16),
    },
    (key, jax.random.split(key, 4), jax.random.key(5, impl='rbg')),
    None,
    {'options': jnp.zeros((0, 4)), 'strategy': ()},
  )


def _assert_same_bits(have, want):
  assert jax.tree.structure(have) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
    assert isinstance(a, jax.Array)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    if jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
      assert jax.random.key_impl(a) == jax.random.key_impl(b)
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_state_is_restored_bit_for_bit_from_its_types(tmp_path):
  like = jax.eval_shape(lambda: _state(0))
  assert orbax.restore_step(tmp_path / 'steps', like) is None
  for step in (3, 10, 11):
    orbax.save_step(tmp_path / 'steps', step, _state(step))
  for asked in (like, _state(0)):
    step, state = orbax.restore_step(tmp_path / 'steps', asked)
    assert step == 11
    _assert_same_bits(state, _state(11))
  assert orbax.load_step(tmp_path / 'steps', _state(0))[0] == 11
  assert {p.name for p in (tmp_path / 'steps').iterdir()} == {'10', '11'}


@pytest.mark.parametrize('damage', ['cut', 'gone', 'empty', 'emptied', 'half'])
def test_a_damaged_last_step_is_passed_over(tmp_path, damage):
  folder, like = tmp_path / 'steps', jax.eval_shape(lambda: _state(0))
  for step in (1, 2):
    orbax.save_step(folder, step, _state(step))
  last = folder / '2'
  files = [p for p in last.rglob('*') if p.is_file()]
  if damage == 'cut':  # written, but never reached the disk
    for path in files:
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  elif damage == 'emptied':
    for path in files:
      path.write_bytes(b'')
  elif damage == 'gone':
    shutil.rmtree(last / 'state')
  elif damage == 'empty':
    shutil.rmtree(last)
    last.mkdir()
  else:  # under its first name still
    last.rename(folder / '2.orbax-checkpoint-tmp')
  step, state = orbax.restore_step(folder, like)
  assert step == 1
  _assert_same_bits(state, _state(1))
  for again in (2, 3):  # and the search goes on from there
    orbax.save_step(folder, again, _state(again))
    assert orbax.restore_step(folder, like)[0] == again
  assert {p.name for p in folder.iterdir()} == {'2', '3'}


def test_a_state_of_another_shape_is_not_restored(tmp_path):
  orbax.save_step(tmp_path / 'steps', 1, {'x': jnp.ones(2), 'e': jnp.ones(3)})
  for like in (
    {'x': jnp.ones(3), 'e': jnp.ones(3)},
    {'x': jnp.ones(2), 'e': jnp.ones(0)},
    {'x': jnp.ones(2)},
    {'x': jnp.ones(2), 'e': jnp.ones(3), 'f': jnp.ones(3)},
  ):
    assert orbax.restore_step(tmp_path / 'steps', like) is None


def test_a_safetensors_model_as_orbax_and_back(tmp_path):
  tensors = {
    'model.layers.0.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
    'model.layers.0.half': np.linspace(-1, 1, 5).astype(ml_dtypes.bfloat16),
    'ids': np.arange(4),
    'flag': np.array([True, False]),
    'one': np.asarray(np.float16(1.5)),
  }
  safetensors.write(tmp_path / 'st', tensors)
  with checkpoints.open_checkpoint(tmp_path / 'st') as source:
    orbax.save_checkpoint(tmp_path / 'orbax', source)
  with checkpoints.open_checkpoint(tmp_path / 'orbax') as checkpoint:
    assert set(checkpoint.names()) == set(tensors)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      read = dict(zip(tensors, pool.map(checkpoint.get, tensors), strict=True))
    for name, want in tensors.items():
      have = read[name]
      assert checkpoint.info(name) == (want.shape, want.dtype), name
      assert have.dtype == want.dtype, name
      assert have.shape == want.shape, name
      assert have.tobytes() == want.tobytes(), name
      assert not have.flags.writeable


def test_nested_leaves_are_named_by_their_path(tmp_path):
  tree = {
    'layers': {'kernel': jnp.arange(6.0).reshape(2, 3), 'count': 3},
    'half': jnp.ones(3, jnp.bfloat16),
  }
  orbax.save(tmp_path / 'numpy', tree)
  orbax.ocp.save(tmp_path / 'jax', tree)
  for kind in ('numpy', 'jax'):
    with checkpoints.open_checkpoint(tmp_path / kind) as checkpoint:
      names = ['half', 'layers/count', 'layers/kernel']
      assert sorted(checkpoint.names()) == names
      kernel = checkpoint.get('layers/kernel')
      np.testing.assert_array_equal(kernel, tree['layers']['kernel'])
      assert checkpoint.get('half').dtype == ml_dtypes.bfloat16
      assert checkpoint.get('layers/count') == 3
      with pytest.raises(KeyError, match='layers/bias'):
        checkpoint.get('layers/bias')


def test_leaves_without_numbers_are_named(tmp_path):
  orbax.save(tmp_path / 'x', {'a': np.ones(2), 'note': 'text'})
  with pytest.raises(ValueError, match="str at 'note'"):
    checkpoints.open_checkpoint(tmp_path / 'x')


def test_tensors_without_elements_are_named(tmp_path):
  safetensors.write(tmp_path, {'a': np.ones(2), 'none': np.zeros((0, 3))})
  with checkpoints.open_checkpoint(tmp_path) as source:
    with pytest.raises(ValueError, match=r"not store: \['none'\]"):
      orbax.save_checkpoint(tmp_path / 'orbax', source)


def test_neighbours_are_read_together_and_in_any_order(tmp_path, monkeypatch):
  monkeypatch.setattr(orbax, '_READ_AT_ONCE', 100)
  tensors = {f't{i}': np.full(7 * i + 1, i, np.float32) for i in range(9)}
  orbax.save(tmp_path / 'x', tensors)
  calls = []
  load = orbax.ocp.load
  monkeypatch.setattr(
    orbax.ocp, 'load', lambda *args: calls.append(1) or load(*args)
  )
  with checkpoints.open_checkpoint(tmp_path / 'x') as checkpoint:
    for name in ['t8', 't0', 't3', 't8', 't1', 't2', 't7', 't0']:
      have = checkpoint.get(name)
      np.testing.assert_array_equal(have, tensors[name])
  assert 3 <= len(calls) < 8
