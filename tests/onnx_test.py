"""ONNX files of vision transformers: names, config, folders, refusals."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from automerge_jax.io import checkpoints, safetensors
from automerge_jax.io import onnx as reader
from automerge_jax.models import base, registry
from tests import tiny_onnx, vit_test

HEADS = 2


@pytest.fixture(scope='module')
def golden():
  with np.load(vit_test.GOLDEN) as file:
    return {k: v for k, v in file.items() if k.startswith('dinov2/')}


@pytest.fixture
def tensors(golden):
  """Weights without the mask token, which exports do not have."""
  prefix = 'dinov2/weights/'
  found = {k.removeprefix(prefix): v for k, v in golden.items() if prefix in k}
  del found['embeddings.mask_token']
  return found


@pytest.fixture
def path(tensors, tmp_path):
  return tiny_onnx.write(tmp_path / 'model.onnx', tensors, HEADS)


def test_tensors_have_their_names_and_values(tensors, path):
  for place in (path, path.parent):
    with checkpoints.open_checkpoint(place) as source:
      assert set(source.names()) == set(tensors)
      for name, want in tensors.items():
        assert source.info(name).shape == want.shape, name
        got = source.get(name)
        assert got.dtype == want.dtype
        assert not got.flags.writeable
        np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64'])
def test_floating_types_are_kept(tensors, tmp_path, dtype):
  cast = {k: v.astype(dtype) for k, v in tensors.items()}
  path = tiny_onnx.write(tmp_path / 'm.onnx', cast, HEADS, 'model.vit.')
  with reader.open_onnx(path) as source:
    for name, want in cast.items():
      got = source.get(name)
      assert got.dtype == want.dtype
      assert got.tobytes() == np.ascontiguousarray(want).tobytes(), name


def test_the_folder_is_hugging_faces_dinov2(golden, path, tmp_path):
  out = tmp_path / 'hf'
  reader.to_hugging_face(path, out)
  told = json.loads((out / 'config.json').read_text())
  want = json.loads(str(golden['dinov2/config']))
  for entry in set(told) - {'architectures', 'use_mask_token'}:
    assert told[entry] == want[entry], entry
  assert told['use_mask_token'] is False
  preprocessing = json.loads((out / 'preprocessor_config.json').read_text())
  assert preprocessing['image_mean'] == [0.485, 0.456, 0.406]
  assert preprocessing['size'] == {'height': 20, 'width': 20}
  with pytest.raises(FileExistsError):
    reader.to_hugging_face(path, out)
  for place in (out, path):
    model = registry.load(place)
    pixels = golden['dinov2/12x32/pixels'].astype(np.float32)
    hidden = base.forward(model.family, model.params, {'pixels': pixels})
    np.testing.assert_allclose(hidden, golden['dinov2/12x32/hidden'], atol=1e-5)
  assert len(safetensors.files(out)) == len(model.family.keys)


def _edit(path, edit):
  model = onnx.load(path)
  edit(model.graph)
  onnx.save_model(model, path)


def test_external_data_is_refused(path):
  model = onnx.load(path)
  onnx.save_model(
    model, path, save_as_external_data=True, size_threshold=0, location='w.bin'
  )
  with pytest.raises(ValueError, match='external data'):
    reader.open_onnx(path)


def test_quantised_weights_are_refused_by_type(path):
  def edit(graph):
    for tensor in graph.initializer:
      if tensor.name.startswith('onnx::MatMul'):
        array = numpy_helper.to_array(tensor).astype(np.int8)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

  _edit(path, edit)
  with pytest.raises(ValueError, match=r'as INT8; expected FLOAT'):
    reader.open_onnx(path)


def test_nameless_weights_of_other_nodes_are_refused(path):
  def edit(graph):
    next(n for n in graph.node if n.op_type == 'MatMul').op_type = 'Gemm'

  _edit(path, edit)
  with pytest.raises(ValueError, match=r'onnx::MatMul_\d+.*without a name'):
    reader.open_onnx(path)


def test_other_models_are_refused(tensors, tmp_path):
  del tensors['encoder.layer.0.layer_scale1.lambda1']
  path = tiny_onnx.write(tmp_path / 'm.onnx', tensors, HEADS)
  with pytest.raises(ValueError, match='no vision transformer of the DINOv2'):
    reader.open_onnx(path)


@pytest.mark.parametrize('rest', [b'', b'\x08\xff not a model', b'\x0a'])
def test_damaged_files_are_named(tmp_path, rest):
  path = tmp_path / 'm.onnx'
  path.write_bytes(rest)
  with pytest.raises(
    ValueError, match=r'm\.onnx (is damaged|holds no weights)'
  ):
    reader.open_onnx(path)
  with pytest.raises(FileNotFoundError):
    reader.open_onnx(tmp_path / 'none.onnx')


@pytest.mark.parametrize('activation', ['Tanh', 'Relu'])
def test_unknown_activation_is_refused(tensors, tmp_path, activation):
  path = tmp_path / 'm.onnx'
  tiny_onnx.write(path, tensors, HEADS, activation=activation)
  with pytest.raises(ValueError, match=f'activation .*{activation}'):
    reader.config(path)


def test_untold_heads_are_refused(tensors, tmp_path):
  path = tiny_onnx.write(tmp_path / 'm.onnx', tensors, 5)
  with pytest.raises(ValueError, match='number of heads'):
    reader.config(path)
