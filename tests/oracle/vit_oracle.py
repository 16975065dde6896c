"""Vision transformers live: new random models, and the real ViT-S/14."""

import jax
import numpy as np
import pytest

from automerge_jax.io import assets, onnx
from automerge_jax.models import base, registry
from tests import vit_test

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize('seed', [1, 2])
def test_random_models_match_torch(ask_peer, tmp_path, seed):
  recorded = ask_peer('oracle/vit_peer.py', 'random', seed)
  for case in vit_test.CASES:
    model = registry.load(vit_test.write(recorded, case, tmp_path / case))
    for size in vit_test.sizes(recorded, case):
      pixels = vit_test.pixels(recorded, case, size)
      hidden = base.forward(model.family, model.params, {'pixels': pixels})
      want = recorded[f'{case}/{size}/hidden']
      np.testing.assert_allclose(hidden, want, atol=2e-5, err_msg=case)


@pytest.fixture(scope='module')
def real():
  return assets.fetch('vit') / 'model.onnx'


def _ours(model, pixels):
  forward = jax.jit(lambda p, x: base.forward(model.family, p, {'pixels': x}))
  return np.asarray(forward(model.params, pixels))


def _close(ours, theirs):
  # Hidden states reach 20; a float32 sum of 1,536 products has errors of 1e-5.
  np.testing.assert_allclose(ours, theirs, atol=1e-4)
  assert np.abs(ours - theirs).mean() < 1e-5


def test_the_real_file_matches_torch(ask_peer, real, tmp_path):
  onnx.to_hugging_face(real, tmp_path / 'vit')
  rng = np.random.default_rng(0)
  given = {
    f'{height}x{width}': rng.normal(size=(2, 3, height, width)).astype('f')
    for height, width in ((56, 56), (84, 112), (150, 100), (252, 238))
  }
  theirs = ask_peer('oracle/vit_peer.py', 'hidden', tmp_path / 'vit', **given)
  model = registry.load(real)
  for name, pixels in given.items():
    _close(_ours(model, pixels), theirs[name])


def test_the_real_file_matches_onnxruntime(ask_peer, real):
  rng = np.random.default_rng(1)
  pixels = rng.normal(size=(2, 3, 224, 224)).astype('f')
  theirs = ask_peer('oracle/vit_peer.py', 'onnx', real, pixels=pixels)
  _close(_ours(registry.load(real), pixels), theirs['pixels'])
