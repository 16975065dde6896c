"""BERT: parity with recorded Hugging Face models, key table, round trip."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.io import safetensors
from automerge_jax.models import base, bert, registry

CASES = ('one_layer', 'odd_sizes', 'three_layers')
GOLDEN = pathlib.Path(__file__).parent / 'testdata' / 'bert_tiny.npz'


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def _weights(golden, case):
  prefix = f'{case}/weights/'
  return {k.removeprefix(prefix): v for k, v in golden.items() if prefix in k}


def _folder(golden, case, path, **config):
  """A Hugging Face folder of one case."""
  entries = json.loads(str(golden[f'{case}/config'])) | config
  path.mkdir()
  (path / 'config.json').write_text(json.dumps(entries))
  safetensors.write(path, _weights(golden, case))
  return path


def _inputs(golden, case):
  return {name: golden[f'{case}/{name}'] for name in ('ids', 'mask')}


@pytest.fixture(params=CASES)
def case(request):
  return request.param


@pytest.fixture
def model(golden, case, tmp_path):
  return registry.load(_folder(golden, case, tmp_path / case))


def test_hidden_states_match_hugging_face(golden, case, model):
  hidden = base.forward(model.family, model.params, _inputs(golden, case))
  np.testing.assert_allclose(hidden, golden[f'{case}/hidden'], atol=1e-5)


def test_jit_equals_eager(golden, case, model):
  inputs = _inputs(golden, case)
  forward = jax.jit(lambda p, x: base.forward(model.family, p, x))
  with jax.disable_jit():
    eager = base.forward(model.family, model.params, inputs)
  np.testing.assert_allclose(forward(model.params, inputs), eager, atol=2e-6)


def test_padding_does_not_reach_real_tokens(golden, case, model):
  inputs = _inputs(golden, case)
  real = inputs['mask'] > 0
  changed = dict(inputs, ids=np.where(real, inputs['ids'], 7))
  assert (changed['ids'] != inputs['ids']).any()
  before = base.forward(model.family, model.params, inputs)
  after = base.forward(model.family, model.params, changed)
  np.testing.assert_array_equal(before[real], after[real])
  assert (before != after)[~real].any()


def test_longer_padding_changes_nothing(golden, case, model):
  inputs = _inputs(golden, case)
  padded = {k: np.pad(v, [(0, 0), (0, 3)]) for k, v in inputs.items()}
  real = inputs['mask'] > 0
  short = base.forward(model.family, model.params, inputs)
  long = base.forward(model.family, model.params, padded)[:, : real.shape[1]]
  np.testing.assert_allclose(long[real], short[real], atol=2e-6)


def test_write_back_is_bit_exact(golden, case, model, tmp_path):
  stored = _weights(golden, case)
  written = base.unpack(model.family.keys, model.params)
  assert set(written) == set(stored)
  safetensors.write(tmp_path / 'again', written)
  for name, tensor in safetensors.stream(tmp_path / 'again'):
    assert tensor.dtype == stored[name].dtype, name
    assert tensor.tobytes() == stored[name].tobytes(), name
  assert safetensors.fingerprint(tmp_path / 'again') == (
    safetensors.fingerprint(tmp_path / case)
  )


def test_pack_with_leading_experts_axis(golden, case, model):
  stored = _weights(golden, case)
  pair = {name: np.stack([t, 2 * t]) for name, t in stored.items()}
  packed = base.pack(model.family.keys, pair, lead=1)
  doubled = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), model.params)
  jax.tree.map(np.testing.assert_array_equal, packed, doubled)


def test_layers_are_stacked_in_order(golden, model, case):
  leaf = model.params['layers']['mlp_input']['kernel']
  for i, kernel in enumerate(leaf):
    name = f'encoder.layer.{i}.intermediate.dense.weight'
    np.testing.assert_array_equal(kernel, _weights(golden, case)[name].T)


def test_position_ids_are_skipped(golden, tmp_path):
  folder = _folder(golden, 'one_layer', tmp_path / 'm')
  stored = safetensors.read(folder)
  plain = registry.load(folder)
  ids = np.arange(16, dtype=np.int64)[None]
  safetensors.write(folder, stored | {'embeddings.position_ids': ids})
  model = registry.load(folder)
  jax.tree.map(np.testing.assert_array_equal, model.params, plain.params)


def test_unmapped_and_missing_tensors_are_named(golden, tmp_path):
  folder = _folder(golden, 'one_layer', tmp_path / 'm')
  stored = safetensors.read(folder)
  stored['cls.predictions.bias'] = stored.pop('embeddings.LayerNorm.bias')
  safetensors.write(folder, stored)
  with pytest.raises(ValueError) as error:
    registry.load(folder)
  assert '- embeddings.LayerNorm.bias' in str(error.value)
  assert '+ cls.predictions.bias' in str(error.value)


def test_too_few_layers_in_config_are_named(golden, tmp_path):
  folder = _folder(golden, 'odd_sizes', tmp_path / 'm', num_hidden_layers=1)
  with pytest.raises(ValueError, match=r'\+ encoder\.layer\.1\.'):
    registry.load(folder)


def test_doubly_mapped_tensor_is_named(golden, model):
  keys = model.family.keys
  family = model.family.__class__(
    **{**vars(model.family), 'keys': (*keys, keys[3])}
  )
  with pytest.raises(ValueError, match='mapped twice') as error:
    base.check_keys(family, [key.stored for key in keys])
  assert f'! {keys[3].stored}' in str(error.value)


@pytest.mark.parametrize(
  ('entry', 'value'),
  [
    ('hidden_act', 'tanh'),
    ('position_embedding_type', 'relative_key'),
    ('is_decoder', True),
    ('add_cross_attention', True),
    ('num_attention_heads', 5),
  ],
)
def test_unimplemented_feature_is_refused_by_name(
  golden, tmp_path, entry, value
):
  folder = _folder(golden, 'one_layer', tmp_path / 'm', **{entry: value})
  with pytest.raises(ValueError, match=f'{entry}={value!r}'):
    registry.load(folder)


def test_missing_config_entry_is_named(golden):
  config = json.loads(str(golden['one_layer/config']))
  del config['intermediate_size']
  with pytest.raises(ValueError, match='intermediate_size'):
    bert.config_from_hf(config)


def test_unknown_family_is_refused_by_name(golden, tmp_path):
  folder = _folder(golden, 'one_layer', tmp_path / 'm', model_type='bart')
  with pytest.raises(ValueError, match=r"'bart'; did you mean 'bert'"):
    registry.load(folder)


def test_folder_without_config_is_named(golden, tmp_path):
  folder = _folder(golden, 'one_layer', tmp_path / 'm')
  (folder / 'config.json').unlink()
  with pytest.raises(FileNotFoundError, match=r'no config\.json'):
    registry.load(folder)


def test_input_longer_than_positions_is_refused(golden, tmp_path):
  model = registry.load(_folder(golden, 'one_layer', tmp_path / 'm'))
  ones = jnp.ones((1, 17), jnp.int32)
  with pytest.raises(ValueError, match=r'17 tokens.*16'):
    base.forward(model.family, model.params, {'ids': ones, 'mask': ones})
