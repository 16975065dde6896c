"""ONNX files of vision transformers under their Hugging Face names.

Exporters of torch keep the names of parameters, except of what they transpose
or fold: weights of linear layers, stored [in, out] as `onnx::MatMul_123`, are
named by the path of the node that uses them, and a position table that is cut
in two is put together again. What is not of the encoder, such as a decoder
behind it, is left out.
"""

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
from google.protobuf import message
from onnx import numpy_helper

from automerge_jax.io import atomic, sharded
from automerge_jax.io.tensors import Checkpoint, TensorInfo

_Type = onnx.TensorProto
_FLOATS = {
  _Type.FLOAT: np.dtype(np.float32),
  _Type.DOUBLE: np.dtype(np.float64),
  _Type.FLOAT16: np.dtype(np.float16),
  _Type.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
_INDICES = (_Type.INT64, _Type.INT32, _Type.BOOL)  # shapes, not weights
_ANONYMOUS = 'onnx::'
_PROJECTION = 'embeddings.patch_embeddings.projection.weight'
_POSITIONS = 'embeddings.position_embeddings'
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class _Stored(NamedTuple):
  """Where a tensor lies: its pieces along axis 1, and whether transposed."""

  pieces: tuple[Any, ...]  # onnx.TensorProto
  transposed: bool = False


def open_onnx(path: str | pathlib.Path) -> Checkpoint:
  """Opens a `.onnx` file of an encoder of the DINOv2 layout.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is damaged, keeps its weights elsewhere, is quantised, or
      holds no encoder of this layout.
  """
  stored = _tensors(path, _graph(path))
  infos = {}
  for name, (pieces, transposed) in stored.items():
    shape = list(pieces[0].dims)
    if len(pieces) > 1:
      shape[1] = sum(piece.dims[1] for piece in pieces)
    if transposed:
      shape.reverse()
    infos[name] = TensorInfo(tuple(shape), _FLOATS[pieces[0].data_type])

  def read(name: str) -> np.ndarray:
    pieces, transposed = stored[name]
    arrays = [numpy_helper.to_array(piece) for piece in pieces]
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)
    array = np.ascontiguousarray(array.T if transposed else array)
    array = array.view(infos[name].dtype)
    array.flags.writeable = False
    return array

  return Checkpoint(str(path), infos, read)


def config(path: str | pathlib.Path) -> dict[str, Any]:
  """The Hugging Face `config.json` that a file's graph amounts to.

  Raises:
    ValueError: as `open_onnx`, or if the graph does not tell heads, epsilon or
      activation.
  """
  graph = _graph(path)
  with open_onnx(path) as source:
    infos = {name: source.info(name) for name in source.names()}
  width, channels, patch, _ = infos[_PROJECTION].shape
  layers = [n for n in infos if n.endswith('.layer_scale1.lambda1')]
  mlp = infos['encoder.layer.0.mlp.fc1.weight'].shape[0]
  grid = math.isqrt(infos[_POSITIONS].shape[1] - 1)
  prefix = '/' + _prefix(path, graph).replace('.', '/')
  return {
    'architectures': ['Dinov2Model'],
    'model_type': 'dinov2',
    'hidden_size': width,
    'num_hidden_layers': len(layers),
    'num_attention_heads': _heads(path, graph, prefix, width),
    'mlp_ratio': mlp // width if mlp % width == 0 else mlp / width,
    'hidden_act': _activation(path, graph, prefix),
    'layer_norm_eps': _epsilon(path, graph, prefix),
    'image_size': grid * patch,
    'patch_size': patch,
    'num_channels': channels,
    'qkv_bias': 'encoder.layer.0.attention.attention.query.bias' in infos,
    'use_mask_token': 'embeddings.mask_token' in infos,
    'use_swiglu_ffn': False,
    'dtype': str(infos[_PROJECTION].dtype),
  }


def to_hugging_face(
  path: str | pathlib.Path,
  out: str | pathlib.Path,
  max_shard_size: int | str = '5GB',
  normalisation: tuple[tuple[float, ...], tuple[float, ...]] = _IMAGENET,
) -> None:
  """Writes an ONNX file as a Hugging Face folder, whole or not at all.

  Args:
    path: a `.onnx` file.
    out: new folder.
    max_shard_size: most bytes of tensors in a file.
    normalisation: mean and standard deviation of each channel in [0, 1], which
      a graph does not tell.

  Raises:
    FileExistsError: if `out` exists.
    ValueError: as `config`.
  """
  settings = config(path)
  mean, std = normalisation
  side = settings['image_size']
  preprocessing = {
    'image_processor_type': 'ViTImageProcessor',
    'do_resize': True,
    'size': {'height': side, 'width': side},
    'resample': 3,  # bicubic
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'do_normalize': True,
    'image_mean': list(mean),
    'image_std': list(std),
  }
  contents = {
    'config.json': settings,
    'preprocessor_config.json': preprocessing,
  }
  with open_onnx(path) as source:
    infos = {name: source.info(name) for name in source.names()}
    needed = sum(info.nbytes for info in infos.values())
    with atomic.folder(out, needed) as folder:
      with sharded.Writer(folder, infos, max_shard_size) as writer:
        for name in infos:
          writer.write(name, source.get(name))
      for filename, content in contents.items():
        (folder / filename).write_text(json.dumps(content, indent=2) + '\n')


def _graph(path: str | pathlib.Path) -> onnx.GraphProto:
  try:
    graph = onnx.load(path, load_external_data=False).graph
  except FileNotFoundError:
    raise
  except (message.DecodeError, ValueError) as error:
    raise ValueError(
      f'{path} is damaged or no ONNX file ({pathlib.Path(path).stat().st_size} '
      f'bytes; {error}); fetch or write it again'
    ) from error
  if not graph.initializer:
    raise ValueError(f'{path} holds no weights; expected an exported model')
  return graph


def _prefix(path: str | pathlib.Path, graph: onnx.GraphProto) -> str:
  """What stands in front of the encoder's names, such as `backbone.`."""
  names = [tensor.name for tensor in graph.initializer]
  found = [name for name in names if name.endswith(_PROJECTION)]
  scaled = any(name.endswith('layer.0.layer_scale1.lambda1') for name in names)
  if len(found) != 1 or not scaled:
    raise ValueError(
      f'{path} holds no vision transformer of the DINOv2 layout, the only one '
      f'that is read from ONNX: expected one ...{_PROJECTION} and ...layer.0.'
      f'layer_scale1.lambda1 among its weights, found {sorted(names)[:10]}'
    )
  return found[0].removesuffix(_PROJECTION)


def _tensors(
  path: str | pathlib.Path, graph: onnx.GraphProto
) -> dict[str, _Stored]:
  """The encoder's weights by their names without prefix."""
  prefix = _prefix(path, graph)
  weights = {t.name: t for t in graph.initializer}
  stored = {}
  for name, tensor in weights.items():
    if name.startswith(prefix) and tensor.data_type not in _INDICES:
      stored[name.removeprefix(prefix)] = _Stored((tensor,))
  for node, module, given in _uses(graph, prefix, weights):
    if node.op_type == 'MatMul':
      stored[f'{module}.weight'] = _Stored((weights[given],), True)
    elif module == 'embeddings':
      # The class token's position stands in front of those of the patches.
      have = stored.get(_POSITIONS, _Stored(()))
      pieces = sorted((*have.pieces, weights[given]), key=lambda t: t.dims[1])
      stored[_POSITIONS] = _Stored(tuple(pieces))
    else:
      raise ValueError(
        f'{path} has a weight {given!r} without a name, used by {node.name!r}; '
        'only weights of linear layers and positions can be named'
      )
  for name, (pieces, _) in stored.items():
    for tensor in pieces:
      _check(path, name, tensor)
  return stored


def _uses(
  graph: onnx.GraphProto, prefix: str, weights: dict[str, Any]
) -> Iterator[tuple[Any, str, str]]:
  """(node, module, weight) of each nameless weight that the encoder uses."""
  root = '/' + prefix.replace('.', '/')
  for node in graph.node:
    if not node.name.startswith(root):
      continue
    module = node.name.removeprefix(root).rpartition('/')[0].replace('/', '.')
    for given in node.input:
      if given.startswith(_ANONYMOUS) and given in weights:
        if weights[given].data_type not in _INDICES:
          yield node, module, given


def _check(path: str | pathlib.Path, name: str, tensor: Any) -> None:
  if tensor.data_location == _Type.EXTERNAL:
    raise ValueError(
      f'{path} keeps {name!r} in another file (external data), which is not '
      'read; save it in one file with onnx.save_model(model, PATH)'
    )
  if tensor.data_type not in _FLOATS:
    raise ValueError(
      f'{path} stores {name!r} as {_Type.DataType.Name(tensor.data_type)}; '
      'expected FLOAT, DOUBLE, FLOAT16 or BFLOAT16: export the model without '
      'quantisation'
    )


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
  """Values of the graph's small constants by the name of their output."""
  found = {}
  for node in graph.node:
    if node.op_type == 'Constant' and node.attribute[0].name == 'value':
      found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
  return found


def _heads(path, graph: onnx.GraphProto, prefix: str, width: int) -> int:
  """From the shape [batch, tokens, heads, size] that queries take."""
  constants = _constants(graph)
  place = f'{prefix}encoder/layer.0/attention/attention/'
  for node in graph.node:
    if node.op_type == 'Concat' and node.name.startswith(place):
      known = [constants.get(name) for name in node.input]
      if len(known) == 4 and known[2] is not None and known[3] is not None:
        heads, size = int(np.squeeze(known[2])), int(np.squeeze(known[3]))
        if heads * size == width:
          return heads
  raise ValueError(
    f'{path} does not tell the number of heads: no shape [batch, tokens, heads,'
    f' size] with heads x size = {width} below {place}; convert the original '
    'model instead'
  )


def _epsilon(path, graph: onnx.GraphProto, prefix: str) -> float:
  """What the last norm adds to the variance."""
  constants = _constants(graph)
  place = f'{prefix}layernorm/'
  for node in graph.node:
    if not node.name.startswith(place):
      continue
    for attribute in node.attribute:
      if node.op_type == 'LayerNormalization' and attribute.name == 'epsilon':
        return float(str(np.float32(attribute.f)))
    given = [constants[name] for name in node.input if name in constants]
    if node.op_type == 'Add' and given:
      return float(str(np.float32(given[0])))
  raise ValueError(
    f"{path} does not tell the norm's epsilon below {place}; convert the "
    'original model instead'
  )


def _activation(path, graph: onnx.GraphProto, prefix: str) -> str:
  place = f'{prefix}encoder/layer.0/mlp/'
  nodes = [node for node in graph.node if node.name.startswith(place)]
  used = {node.op_type for node in nodes}
  approximate = any(a.s == b'tanh' for node in nodes for a in node.attribute)
  if not used & {'Erf', 'Gelu'} or approximate:
    raise ValueError(
      f'{path} has an activation that is not known, made of {sorted(used)}'
      f'{" with tanh" if approximate else ""}; expected an exact GELU (Erf)'
    )
  return 'gelu'
