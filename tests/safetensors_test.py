"""Safetensors folders: round trip, shards, damage, atomic writes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from automerge_jax.io import safetensors as st_io

TENSORS = {
  'b.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
  'a.bias': np.array([np.nan, -0.0, np.inf], np.float16),
  'ids': np.arange(4)[None],
  'scale': np.asarray(np.float32(3.5)),
  'empty': np.zeros((0, 4), np.float32),
  'half': np.asarray(jnp.linspace(-1, 1, 5, dtype=jnp.bfloat16)),
}
SHARDS = {
  'model-00001-of-00002.safetensors': ['b.weight', 'scale', 'empty'],
  'model-00002-of-00002.safetensors': ['a.bias', 'ids', 'half'],
}
FIRST, SECOND = SHARDS


def _assert_same(have, want):
  assert set(have) == set(want)
  for name, tensor in want.items():
    assert have[name].dtype == tensor.dtype, name
    assert have[name].shape == tensor.shape, name
    assert have[name].tobytes() == tensor.tobytes(), name


@pytest.fixture
def sharded(tmp_path):
  """A folder of two shards and their index, shaped as Hugging Face does."""
  for shard, names in SHARDS.items():
    part = {name: TENSORS[name] for name in names}
    safetensors.numpy.save_file(part, tmp_path / shard)
  weight_map = {n: shard for shard, names in SHARDS.items() for n in names}
  index = {'metadata': {'total_size': 1}, 'weight_map': weight_map}
  (tmp_path / st_io.INDEX).write_text(json.dumps(index))
  return tmp_path


def test_round_trip_is_bit_exact(tmp_path):
  st_io.write(tmp_path / 'new' / 'folder', TENSORS)
  _assert_same(st_io.read(tmp_path / 'new' / 'folder'), TENSORS)


@settings(max_examples=25, deadline=None)
@given(
  st.dictionaries(
    st.text('abc.0', min_size=1, max_size=6),
    hnp.arrays(
      st.sampled_from([np.float32, np.float16, np.int64, np.bool_]),
      hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    max_size=4,
  )
)
def test_any_tensors_round_trip(tmp_path_factory, tensors):
  folder = tmp_path_factory.mktemp('any')
  st_io.write(folder, tensors)
  _assert_same(st_io.read(folder), tensors)


def test_transposed_views_are_written_as_they_read(tmp_path):
  view = np.arange(12, dtype=np.float32).reshape(3, 4).T
  st_io.write(tmp_path, {'view': view, 'row': view[1]})
  read = st_io.read(tmp_path)
  np.testing.assert_array_equal(read['view'], view)
  np.testing.assert_array_equal(read['row'], view[1])


def test_shards_read_as_one_model(sharded):
  _assert_same(st_io.read(sharded), TENSORS)
  assert st_io.files(sharded)['ids'].name == SECOND


def test_stream_keeps_the_order_asked_for(sharded):
  names = ['scale', 'ids', 'b.weight']
  assert [name for name, _ in st_io.stream(sharded, names)] == names


def test_unknown_tensor_is_named(sharded):
  with pytest.raises(KeyError, match=r'no tensor .c\.weight'):
    dict(st_io.stream(sharded, ['ids', 'c.weight']))


def test_single_file_goes_before_an_older_index(sharded):
  newer = {'only': np.ones(2, np.float32)}
  st_io.write(sharded, newer)
  _assert_same(st_io.read(sharded), newer)


def test_folder_without_weights_names_what_is_expected(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'neither model\.safetensors'):
    st_io.read(tmp_path)


def test_missing_shard_is_named(sharded):
  (sharded / SECOND).unlink()
  with pytest.raises(FileNotFoundError, match=SECOND):
    st_io.files(sharded)


@pytest.mark.parametrize('share', [0.0, 0.2, 0.99])
def test_truncated_file_is_named(tmp_path, share):
  st_io.write(tmp_path, TENSORS)
  path = tmp_path / st_io.SINGLE
  whole = path.read_bytes()
  path.write_bytes(whole[: int(share * len(whole))])
  with pytest.raises(ValueError, match=r'model\.safetensors is damaged'):
    st_io.read(tmp_path)


def test_truncated_shard_is_named(sharded):
  shard = sharded / SECOND
  shard.write_bytes(shard.read_bytes()[:-1])
  with pytest.raises(ValueError, match=f'{shard.name} is damaged'):
    st_io.read(sharded)


def test_tensor_missing_from_its_shard_is_named(sharded):
  index = json.loads((sharded / st_io.INDEX).read_text())
  index['weight_map']['ids'] = FIRST
  (sharded / st_io.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match=f"{FIRST} does not hold .*'ids'"):
    st_io.read(sharded)


@pytest.mark.parametrize('text', ['{"weight_map": {', '[]', '{"weights": {}}'])
def test_damaged_index_is_named(tmp_path, text):
  (tmp_path / st_io.INDEX).write_text(text)
  with pytest.raises(ValueError, match=r'index\.json is damaged.*weight_map'):
    st_io.files(tmp_path)


def test_index_cannot_reach_outside_its_folder(sharded):
  index = {'weight_map': {'ids': '../secret.safetensors'}}
  (sharded / st_io.INDEX).write_text(json.dumps(index))
  with pytest.raises(ValueError, match=r'outside its folder.*secret'):
    st_io.files(sharded)


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
  st_io.write(tmp_path, TENSORS)

  def half(tensors, path, metadata):
    path.write_bytes(b'half of it')
    raise OSError('disk full')

  monkeypatch.setattr(safetensors.numpy, 'save_file', half)
  with pytest.raises(OSError, match='disk full'):
    st_io.write(tmp_path, {'other': np.ones(3)})
  _assert_same(st_io.read(tmp_path), TENSORS)
  assert [path.name for path in tmp_path.iterdir()] == [st_io.SINGLE]


def test_left_over_partial_file_is_replaced(tmp_path):
  (tmp_path / (st_io.SINGLE + '.partial')).write_bytes(b'of a killed run')
  st_io.write(tmp_path, TENSORS)
  _assert_same(st_io.read(tmp_path), TENSORS)
  assert [path.name for path in tmp_path.iterdir()] == [st_io.SINGLE]


def test_fingerprint_follows_the_bytes(tmp_path, sharded):
  st_io.write(tmp_path / 'a', TENSORS)
  st_io.write(tmp_path / 'b', dict(reversed(TENSORS.items())))
  changed = TENSORS | {'b.weight': np.nextafter(TENSORS['b.weight'], 9)}
  st_io.write(tmp_path / 'c', changed)
  same, again, other = (st_io.fingerprint(tmp_path / x) for x in 'abc')
  assert same == again != other
  before = st_io.fingerprint(sharded)
  shard = sharded / FIRST
  part = {name: changed[name] for name in SHARDS[shard.name]}
  safetensors.numpy.save_file(part, shard)
  assert st_io.fingerprint(sharded) != before


def test_reader_serves_several_folders(tmp_path, sharded):
  st_io.write(tmp_path / 'single', TENSORS)
  with st_io.Reader({'a': sharded, 'b': tmp_path / 'single'}) as reader:
    assert set(reader.names('a')) == set(reader.names('b')) == set(TENSORS)
    for model in 'ab':
      have = {name: reader.get(model, name) for name in reader.names(model)}
      _assert_same(have, TENSORS)
    with pytest.raises(KeyError, match=r"single has no tensor 'x'"):
      reader.get('b', 'x')
