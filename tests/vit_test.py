"""Vision transformers: parity with recorded torch models, tables, positions."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.io import safetensors
from automerge_jax.models import base, registry, vit
from automerge_jax.spaces import cells

CASES = (
  'dinov2',
  'dinov2_swiglu',
  'dinov2_classifier',
  'vit',
  'vit_classifier',
  'clip_vision',
  'clip_projection',
  'clip',
)
GOLDEN = pathlib.Path(__file__).parent / 'testdata' / 'vit_tiny.npz'


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def _weights(golden, case):
  prefix = f'{case}/weights/'
  return {k.removeprefix(prefix): v for k, v in golden.items() if prefix in k}


def write(golden, case, path, **config):
  """A Hugging Face folder of one case."""
  entries = json.loads(str(golden[f'{case}/config'])) | config
  path.mkdir()
  (path / 'config.json').write_text(json.dumps(entries))
  safetensors.write(path, _weights(golden, case))
  return path


def sizes(golden, case):
  """Image sizes that a case was recorded at."""
  names = [k.split('/') for k in golden if k.endswith('/pixels')]
  return [size for owner, size, _ in names if owner == case]


def pixels(golden, case, size):
  """Images of one size, [B, C, H, W]."""
  return golden[f'{case}/{size}/pixels'].astype(np.float32)


@pytest.fixture(params=CASES)
def case(request):
  return request.param


@pytest.fixture
def model(golden, case, tmp_path):
  return registry.load(write(golden, case, tmp_path / case))


def test_hidden_states_match_hugging_face(golden, case, model):
  forward = jax.jit(lambda p, x: base.forward(model.family, p, {'pixels': x}))
  for size in sizes(golden, case):
    hidden = forward(model.params, pixels(golden, case, size))
    np.testing.assert_allclose(
      hidden, golden[f'{case}/{size}/hidden'], atol=1e-5, err_msg=size
    )


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_close(golden, case, model, dtype):
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), model.params)
  image = pixels(golden, case, '12x32')
  hidden = base.forward(model.family, params, {'pixels': image})
  assert hidden.dtype == dtype
  want = golden[f'{case}/12x32/hidden']
  gap = np.abs(np.asarray(hidden, np.float32) - want).mean()
  assert gap < (0.04 if dtype == jnp.bfloat16 else 0.006) * want.std()


def test_write_back_is_bit_exact(golden, case, model):
  stored = _weights(golden, case)
  written = base.unpack(model.family.keys, model.params)
  assert set(written) == set(stored) - set(model.family.skip)
  for name, tensor in written.items():
    assert tensor.dtype == stored[name].dtype, name
    assert tensor.tobytes() == stored[name].tobytes(), name


def test_only_the_text_side_of_clip_is_skipped(golden, case, model):
  text = {n for n in _weights(golden, case) if n.startswith(('text', 'logit'))}
  assert set(model.family.skip) == text
  assert bool(text) == (case == 'clip')


def test_every_leaf_is_of_one_component(case, model):
  for division in model.family.components:
    found = cells.layered(model.family, 1, division)
    outer = {
      path: found.names[int(cell)][1]
      for path, cell in found.of_leaf.items()
      if cell.ndim == 0
    }
    for path, component in outer.items():
      assert (component == 'stem') == path.startswith('stem'), (case, path)


def test_unmapped_and_missing_tensors_are_named(golden, tmp_path):
  folder = write(golden, 'dinov2', tmp_path / 'm')
  stored = safetensors.read(folder)
  stored['head.weight'] = stored.pop('encoder.layer.1.layer_scale2.lambda1')
  safetensors.write(folder, stored)
  with pytest.raises(ValueError) as error:
    registry.load(folder)
  assert '- encoder.layer.1.layer_scale2.lambda1' in str(error.value)
  assert '+ head.weight' in str(error.value)


@pytest.mark.parametrize(
  ('case', 'entry', 'value'),
  [
    ('dinov2', 'hidden_act', 'selu'),
    ('dinov2', 'num_attention_heads', 5),
    ('vit', 'image_size', [20, 24]),
    ('vit', 'patch_size', [4, 2]),
    ('clip_vision', 'hidden_act', 'gelu_fast'),
  ],
)
def test_unimplemented_feature_is_refused_by_name(
  golden, tmp_path, case, entry, value
):
  folder = write(golden, case, tmp_path / 'm', **{entry: value})
  with pytest.raises(ValueError, match=entry) as error:
    registry.load(folder)
  assert str(value) in str(error.value)


@pytest.mark.parametrize('entry', ['mlp_ratio', 'hidden_size'])
def test_missing_config_entry_is_named(golden, entry):
  config = json.loads(str(golden['dinov2/config']))
  del config[entry]
  with pytest.raises(ValueError, match=entry):
    vit.config_from_hf(config, [])


def test_whole_clip_config_may_leave_out_defaults(golden):
  config = json.loads(str(golden['clip/config']))
  config['vision_config'] = {'hidden_size': 64, 'num_attention_heads': 4}
  read = vit.config_from_hf(config, [])
  assert (read.num_layers, read.patch_size, read.grid) == (12, 32, 7)
  assert (read.hidden_size, read.activation) == (64, 'quick_gelu')


@pytest.mark.parametrize('shape', [(2, 1, 20, 20), (2, 3, 20, 3)])
def test_odd_images_are_refused(golden, tmp_path, shape):
  model = registry.load(write(golden, 'dinov2', tmp_path / 'm'))
  with pytest.raises(ValueError, match=r'expected 3 channels and .* 4 x 4'):
    base.forward(model.family, model.params, {'pixels': np.zeros(shape)})


def test_cubic_weights_keep_constants_and_lines():
  for size, out in ((5, 7), (5, 2), (37, 4), (3, 3)):
    weights = vit.cubic_weights(size, out)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
  # Away from the edges Keys' kernel keeps parabolas; a = -0.5 would be exact
  # on them, -0.75 is on lines only at the samples and half way.
  line = vit.cubic_weights(9, 18) @ np.arange(9.0)
  assert np.all(np.diff(line) > 0)
  np.testing.assert_array_equal(vit.cubic_weights(4, 4), np.eye(4))
