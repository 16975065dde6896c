"""ONNX files as torch exports vision transformers, from stored names."""

import pathlib

import numpy as np
import onnx
from onnx import helper, numpy_helper

PREFIX = 'backbone.'


def write(
  path: pathlib.Path,
  tensors: dict[str, np.ndarray],
  heads: int,
  prefix: str = PREFIX,
  activation: str = 'Erf',
) -> pathlib.Path:
  """Writes the weights, and as much of the graph as names and sizes need.

  Weights of linear layers are transposed and nameless, the position table is
  cut in two, and a decoder stands behind the encoder.
  """
  root = '/' + prefix.replace('.', '/')
  nodes, initializers = [], []

  def keep(name: str, array: np.ndarray) -> str:
    array = np.ascontiguousarray(array)
    initializers.append(numpy_helper.from_array(array, name))
    return name

  def node(kind: str, place: str, given: list[str], **more) -> str:
    name = f'{root}{place}/{kind}_{len(nodes)}'
    nodes.append(
      helper.make_node(kind, given, [f'{name}_output_0'], name, **more)
    )
    return f'{name}_output_0'

  def constant(place: str, value) -> str:
    tensor = numpy_helper.from_array(np.asarray(value))
    return node('Constant', place, [], value=tensor)

  width = tensors['layernorm.weight'].shape[0]
  keep('onnx::Expand_3', np.array([1, 1], np.int64))  # a shape, no weight
  for number, (name, array) in enumerate(tensors.items()):
    module, _, kind = name.rpartition('.')
    linear = kind == 'weight' and array.ndim == 2
    if name == 'embeddings.position_embeddings':
      patches = keep('onnx::Reshape_11', array[:, 1:])
      first = keep('onnx::Concat_12', array[:, :1])
      where = module.replace('.', '/')
      node('Concat', where, [first, node('Reshape', where, [patches, 'x'])])
    elif linear:
      weight = keep(f'onnx::MatMul_{100 + number}', array.T)
      node('MatMul', module.replace('.', '/'), ['x', weight])
    else:
      keep(prefix + name, array)
  attention = 'encoder/layer.0/attention/attention'
  shape = [constant(attention, [n]) for n in (heads, width // heads)]
  node('Concat', attention, ['batch', 'tokens', *shape], axis=0)
  node(activation, 'encoder/layer.0/mlp/activation', ['x'])
  node('Add', 'layernorm', ['x', constant('layernorm', np.float32(1e-6))])
  keep('decoder.weight', np.ones((2, 2), np.float32))
  model = helper.make_model(
    helper.make_graph(nodes, 'tiny', [], [], initializers)
  )
  onnx.save_model(model, path)
  return path
