"""Opening any checkpoint: formats, lazy reading, damage by name."""

import hashlib
import json
import mmap

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge_jax.io import checkpoints, sharded
from automerge_jax.io import safetensors as st_io

TENSORS = {
  'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
  'a.half': np.linspace(-1, 1, 5).astype(ml_dtypes.bfloat16),
  'a.eight': np.linspace(-1, 1, 5).astype(ml_dtypes.float8_e4m3fn),
  'odd': np.arange(3, dtype=np.uint8),
  'none': np.zeros((0, 4), np.float32),
  'one': np.asarray(np.float16(1.5)),
}
SHARDS = [
  'model-00001-of-00002.safetensors',
  'model-00002-of-00002.safetensors',
]


def _shards(folder, tensors):
  """Writes the tensors as two shards and their index."""
  names = list(tensors)
  split = {SHARDS[0]: names[:3], SHARDS[1]: names[3:]}
  for shard, part in split.items():
    safetensors.numpy.save_file({n: tensors[n] for n in part}, folder / shard)
  weight_map = {n: shard for shard, part in split.items() for n in part}
  (folder / st_io.INDEX).write_text(json.dumps({'weight_map': weight_map}))


def _assert_same(checkpoint, want):
  assert set(checkpoint.names()) == set(want)
  for name, tensor in want.items():
    have = checkpoint.get(name)
    assert checkpoint.info(name) == (tensor.shape, tensor.dtype), name
    assert have.dtype == tensor.dtype, name
    assert have.shape == tensor.shape, name
    assert have.tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize('layout', ['single', 'sharded', 'file'])
def test_safetensors(tmp_path, layout):
  path = tmp_path
  if layout == 'sharded':
    _shards(tmp_path, TENSORS)
  else:
    st_io.write(tmp_path, TENSORS, 'x.safetensors')
    path = tmp_path / 'x.safetensors'
  if layout == 'single':
    path = path.rename(tmp_path / st_io.SINGLE).parent
  with checkpoints.open_checkpoint(path) as checkpoint:
    _assert_same(checkpoint, TENSORS)
    with pytest.raises(KeyError, match=r"no tensor 'a\.weigh'; did you mean"):
      checkpoint.get('a.weigh')


_DTYPES = ('float32', 'float16', 'bfloat16', 'float8_e5m2', 'int8', 'bool')


@settings(max_examples=40, deadline=None)
@given(
  st.dictionaries(
    st.text('ab.0', min_size=1, max_size=4),
    st.tuples(
      st.lists(st.integers(0, 4), max_size=3), st.sampled_from(_DTYPES)
    ),
    min_size=1,
    max_size=6,
  ),
  st.integers(1, 200),
)
def test_any_tensors_in_any_shards(tmp_path_factory, described, shard):
  rng = np.random.default_rng(0)
  tensors = {
    name: rng.normal(size=shape).astype(np.dtype(dtype))
    if shape
    else np.asarray(1).astype(np.dtype(dtype))
    for name, (shape, dtype) in described.items()
  }
  folder = tmp_path_factory.mktemp('any')
  infos = {
    n: checkpoints.TensorInfo(t.shape, t.dtype) for n, t in tensors.items()
  }
  with sharded.Writer(folder, infos, shard) as writer:
    for name, tensor in tensors.items():
      writer.write(name, tensor)
  with checkpoints.open_checkpoint(folder) as checkpoint:
    _assert_same(checkpoint, tensors)
  library = {
    name: file.get_slice(name).get_shape()
    for path in folder.glob('*.safetensors')
    for file in [safetensors.safe_open(path, 'numpy')]
    for name in file.keys()
  }
  assert library == {name: list(t.shape) for name, t in tensors.items()}


def _root(array):
  while isinstance(array, np.ndarray):
    array = array.base
  return array.obj if isinstance(array, memoryview) else array


def test_tensors_are_views_of_the_file_that_outlive_it(tmp_path):
  st_io.write(tmp_path, TENSORS)
  with checkpoints.open_checkpoint(str(tmp_path)) as checkpoint:
    kept = checkpoint.get('a.weight')
  assert isinstance(_root(kept), mmap.mmap)
  assert not kept.flags.writeable
  np.testing.assert_array_equal(kept, TENSORS['a.weight'])


def test_an_unaligned_tensor_is_copied_into_place(tmp_path):
  data = b'\x07' + np.float32([1, 2]).tobytes()
  header = json.dumps(
    {
      'byte': {'dtype': 'U8', 'shape': [1], 'data_offsets': [0, 1]},
      'pair': {'dtype': 'F32', 'shape': [2], 'data_offsets': [1, 9]},
    }
  ).encode()
  path = tmp_path / 'x.safetensors'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + data)
  with checkpoints.open_checkpoint(path) as checkpoint:
    assert checkpoint.get('pair').flags.aligned
    np.testing.assert_array_equal(checkpoint.get('pair'), [1, 2])


def test_truncated_shard_is_named(tmp_path):
  _shards(tmp_path, TENSORS)
  shard = tmp_path / SHARDS[1]
  shard.write_bytes(shard.read_bytes()[:-1])
  with pytest.raises(ValueError, match=f'{SHARDS[1]} is damaged'):
    checkpoints.open_checkpoint(tmp_path)


def test_index_and_shards_must_agree(tmp_path):
  _shards(tmp_path, TENSORS)
  index = json.loads((tmp_path / st_io.INDEX).read_text())
  whole = dict(index['weight_map'])
  del index['weight_map']['odd']
  (tmp_path / st_io.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match=r"does not list: \['odd'\]"):
    checkpoints.open_checkpoint(tmp_path)
  index['weight_map'] = whole | {'more': SHARDS[0]}
  (tmp_path / st_io.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match="does not hold the tensor 'more'"):
    checkpoints.open_checkpoint(tmp_path)
  (tmp_path / SHARDS[0]).unlink()
  with pytest.raises(FileNotFoundError, match=SHARDS[0]):
    checkpoints.open_checkpoint(tmp_path)


def test_numbers_that_are_not_supported_are_named(tmp_path):
  header = json.dumps(
    {'x': {'dtype': 'F8_E8M0', 'shape': [1], 'data_offsets': [0, 1]}}
  ).encode()
  path = tmp_path / 'x.safetensors'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + b'\0')
  with pytest.raises(ValueError, match=r"'x' as F8_E8M0.*convert"):
    checkpoints.open_checkpoint(path)


def test_pickles_are_refused(tmp_path):
  (tmp_path / 'pytorch_model.bin').write_bytes(b'x')
  for path in (tmp_path, tmp_path / 'pytorch_model.bin'):
    with pytest.raises(ValueError, match='save_pretrained'):
      checkpoints.open_checkpoint(path)


def test_nothing_there_says_what_is(tmp_path):
  (tmp_path / 'notes.txt').write_text('')
  with pytest.raises(FileNotFoundError, match=r'expected .*notes\.txt'):
    checkpoints.open_checkpoint(tmp_path)
  with pytest.raises(FileNotFoundError, match='no checkpoint at'):
    checkpoints.open_checkpoint(tmp_path / 'nowhere')
  (tmp_path / 'adapter_config.json').write_text('{}')
  with pytest.raises(ValueError, match=r'PEFT adapter.*BASE\+'):
    checkpoints.open_checkpoint(tmp_path)


def test_fingerprint_is_that_of_the_files_in_order(tmp_path):
  _shards(tmp_path, TENSORS)
  parts = [hashlib.sha256((tmp_path / s).read_bytes()) for s in SHARDS]
  want = hashlib.sha256(b''.join(p.digest() for p in parts)).hexdigest()
  assert checkpoints.fingerprint(tmp_path) == want
  assert st_io.fingerprint(tmp_path) == want


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(dtype, value):
  array = np.full((3, 4), 1, np.dtype(dtype))
  checkpoints.check_finite(array, 'm', 'w')
  array[1, 2] = value
  with pytest.raises(ValueError, match=r"m has \d NaN and \d inf.*'w'") as got:
    checkpoints.check_finite(array, 'm', 'w')
  nan = np.isnan(value)
  assert f'{int(nan)} NaN and {int(not nan)} infinite' in str(got.value)


def test_large_finite_values_are_fine():
  largest = np.finfo(np.float32).max
  checkpoints.check_finite(np.full(8, largest, np.float32), 'm', 'w')
  checkpoints.check_finite(np.array([True]), 'm', 'w')
  checkpoints.check_finite(np.arange(3), 'm', 'w')
