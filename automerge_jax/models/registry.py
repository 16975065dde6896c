"""Model families by Hugging Face `model_type`, and loading of checkpoints."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from automerge_jax import trees
from automerge_jax.io import checkpoints
from automerge_jax.models import base, bert, gpt2, llama, roberta, t5, vit
from automerge_jax.types import Family, Params

_CONFIG = 'config.json'
_MODULES: dict[str, ModuleType] = {
  'bert': bert,
  'clip': vit,
  'clip_vision_model': vit,
  'dinov2': vit,
  'gemma': llama,
  'gemma2': llama,
  'gemma3_text': llama,
  'gpt2': gpt2,
  'llama': llama,
  'mistral': llama,
  'qwen2': llama,
  'qwen3': llama,
  'roberta': roberta,
  't5': t5,
  'vit': vit,
  'xlm-roberta': roberta,
}


class Model(NamedTuple):
  """A checkpoint in memory: its family and Params of numpy arrays."""

  family: Family
  params: Params


def family_of(folder: pathlib.Path, stored: Sequence[str]) -> Family:
  """The family of a checkpoint.

  Args:
    folder: holds `config.json`; or what `io.checkpoints` reads: an Orbax folder
      with the config in it or beside it, or a GGUF or ONNX file, which tells
      its own.
    stored: names of the checkpoint's tensors.

  Raises:
    FileNotFoundError: without `config.json`.
    ValueError: for an unknown `model_type` or an unimplemented feature.
  """
  return from_config(_config(pathlib.Path(folder)), stored, str(folder))


def from_config(
  config: Mapping[str, Any], stored: Sequence[str], where: str = 'config'
) -> Family:
  """The family of a parsed `config.json`.

  Args:
    config: of the model.
    stored: names of the checkpoint's tensors.
    where: what an error calls the config.

  Raises:
    ValueError: for an unknown `model_type` or an unimplemented feature.
  """
  kind = str(config.get('model_type'))
  if kind not in _MODULES:
    raise ValueError(
      f'{where}: unknown model_type {kind!r}' + trees.nearest(kind, _MODULES)
    )
  module = _MODULES[kind]
  return module.family(module.config_from_hf(config, list(stored)))


def load(path: str | pathlib.Path) -> Model:
  """Reads a checkpoint of any format into Params.

  Args:
    path: as `io.checkpoints.open_checkpoint` takes it, with a config.

  Raises:
    FileNotFoundError: if there is no checkpoint or no config.
    ValueError: if checkpoint and key table do not match, listing each tensor.
  """
  main, _ = checkpoints.split_adapter(path)
  with checkpoints.open_checkpoint(path) as source:
    family = family_of(main, source.names())
    base.check_keys(family, source.names())
    tensors = {key.stored: source.get(key.stored) for key in family.keys}
    return Model(family, base.pack(family.keys, tensors))


def _config(path: pathlib.Path) -> dict[str, Any]:
  """Parsed `config.json`."""
  folder = path if path.is_dir() else path.parent
  for file in (folder / _CONFIG, folder.parent / _CONFIG):
    beside = file.parent == folder or checkpoints.find(path)[0] == 'orbax'
    if file.is_file() and beside:
      return json.loads(file.read_text(encoding='utf-8'))
  kind, weights = checkpoints.find(path)
  if kind == 'gguf':
    from automerge_jax.io import gguf  # takes a second

    return gguf.config(weights)
  if kind == 'onnx':
    from automerge_jax.io import onnx

    return onnx.config(weights)
  raise FileNotFoundError(
    f'{folder} has no {_CONFIG}; expected a Hugging Face model folder'
  )
