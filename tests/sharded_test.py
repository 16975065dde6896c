"""The writer: layout, parts and threads, what it refuses, who can read it."""

import concurrent.futures
import json
import os
import stat

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge_jax.io import safetensors as st_io
from automerge_jax.io import sharded
from automerge_jax.io.tensors import TensorInfo

TENSORS = {
  'flag': np.array([True, False, True]),
  'wide': np.arange(12, dtype=np.float32).reshape(3, 4),
  'half': np.linspace(-2, 2, 5).astype(ml_dtypes.bfloat16),
  'scalar': np.asarray(np.float16(2.5)),
  'empty': np.zeros((0, 3), np.float32),
  'ids': np.arange(4),
}


def _infos(tensors):
  return {n: TensorInfo(t.shape, t.dtype) for n, t in tensors.items()}


def _write(folder, tensors, **options):
  with sharded.Writer(folder, _infos(tensors), **options) as writer:
    for name, tensor in tensors.items():
      writer.write(name, tensor)


def _assert_same(have, want):
  assert set(have) == set(want)
  for name, tensor in want.items():
    assert have[name].dtype == tensor.dtype, name
    assert have[name].shape == tensor.shape, name
    assert have[name].tobytes() == tensor.tobytes(), name


def test_one_file_when_it_fits(tmp_path):
  _write(tmp_path, TENSORS)
  assert os.listdir(tmp_path) == [st_io.SINGLE]
  loaded = safetensors.numpy.load_file(tmp_path / st_io.SINGLE)
  _assert_same(loaded, TENSORS)
  with safetensors.safe_open(tmp_path / st_io.SINGLE, 'numpy') as handle:
    assert handle.metadata() == {'format': 'pt'}


def test_shards_and_index(tmp_path):
  _write(tmp_path, TENSORS, max_shard_size=50)
  index = json.loads((tmp_path / st_io.INDEX).read_text())
  sizes = {name: tensor.nbytes for name, tensor in TENSORS.items()}
  assert index['metadata'] == {'total_size': sum(sizes.values())}
  assert set(index['weight_map']) == set(TENSORS)
  names = sorted(set(index['weight_map'].values()))
  assert names == [f'model-0000{i}-of-00003.safetensors' for i in (1, 2, 3)]
  loaded = {}
  for name in names:
    part = safetensors.numpy.load_file(tmp_path / name)
    assert sum(t.nbytes for t in part.values()) <= 50
    loaded |= part
  _assert_same(loaded, TENSORS)
  _assert_same(st_io.read(tmp_path), TENSORS)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 70))
def test_shards_are_filled_in_order(sizes, most):
  infos = {
    f't{i}': TensorInfo((size,), np.dtype(np.uint8))
    for i, size in enumerate(sizes)
  }
  groups = list(sharded.shards(infos, most).values())
  assert [name for group in groups for name in group] == list(infos)
  filled = [sum(infos[name].nbytes for name in group) for group in groups]
  for total, group in zip(filled, groups, strict=True):
    assert total <= most or len(group) == 1
  for total, after in zip(filled, groups[1:], strict=False):
    assert total + infos[after[0]].nbytes > most


def test_parts_in_any_order_from_threads(tmp_path):
  big = np.random.default_rng(0).normal(size=(64, 1000)).astype(np.float32)
  infos = _infos({'big': big, **TENSORS})
  flat, step = big.reshape(-1), 777
  starts = np.random.default_rng(1).permutation(range(0, big.size, step))
  with sharded.Writer(tmp_path, infos, '100KB') as writer:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      jobs = [
        pool.submit(writer.write, 'big', flat[s : s + step], int(s))
        for s in starts
      ]
      jobs += [pool.submit(writer.write, *item) for item in TENSORS.items()]
      for job in jobs:
        job.result()
  _assert_same(st_io.read(tmp_path), {'big': big, **TENSORS})


def test_views_are_written_as_they_read(tmp_path):
  view = np.arange(12, dtype=np.float32).reshape(3, 4).T
  _write(tmp_path, {'view': view})
  np.testing.assert_array_equal(st_io.read(tmp_path)['view'], view)


def test_what_is_missing_is_listed(tmp_path):
  writer = sharded.Writer(tmp_path, _infos(TENSORS))
  for name in set(TENSORS) - {'wide', 'ids'}:
    writer.write(name, TENSORS[name])
  flat = TENSORS['wide'].reshape(-1)
  writer.write('wide', flat[:5])
  writer.write('wide', flat[3:6], 3)  # written twice counts once
  writer.write('wide', flat[8:], 8)
  with pytest.raises(ValueError, match='2 tensors were not') as caught:
    writer.close()
  assert 'wide: 2 of 12 elements' in str(caught.value)
  assert 'ids: 4 of 4 elements' in str(caught.value)


def test_refusals_name_the_value(tmp_path):
  with pytest.raises(ValueError, match='declared as float32, got float64'):
    with sharded.Writer(tmp_path, _infos(TENSORS)) as writer:
      writer.write('wide', TENSORS['wide'].astype(np.float64))
  for path in tmp_path.iterdir():
    path.unlink()
  writer = sharded.Writer(tmp_path, _infos(TENSORS))
  with pytest.raises(KeyError, match="did you mean 'wide'"):
    writer.write('wid', TENSORS['wide'])
  for start in (-1, 1):
    with pytest.raises(ValueError, match='12 elements'):
      writer.write('wide', TENSORS['wide'], start)
  with pytest.raises(FileExistsError):
    sharded.Writer(tmp_path, _infos(TENSORS))
  with pytest.raises(ValueError, match='is complex128'):
    sharded.Writer(
      tmp_path, {'z': TensorInfo((1,), np.dtype(np.complex128))}, 1
    )


@pytest.mark.parametrize(
  'text, value',
  [('5GB', 5 * 10**9), ('2GiB', 2**31), ('1.5 KB', 1500), (7, 7), ('7', 7)],
)
def test_sizes(text, value):
  assert sharded.size_in_bytes(text) == value


@pytest.mark.parametrize('text', ['5 gigs', '', '-1', '0', 'GB'])
def test_sizes_that_are_none(text):
  with pytest.raises(ValueError, match=r'size|holds nothing'):
    sharded.size_in_bytes(text)


def test_permissions_follow_the_umask(tmp_path):
  old = os.umask(0o027)
  try:
    _write(tmp_path, TENSORS, max_shard_size=50)
  finally:
    os.umask(old)
  modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
  assert modes == {0o640}
