"""Model families by Hugging Face `model_type`, and whole-folder loading."""

import json
import pathlib
from typing import NamedTuple

from automerge_jax import trees
from automerge_jax.io import safetensors
from automerge_jax.models import base, bert
from automerge_jax.types import Family, Params


class Model(NamedTuple):
  """A checkpoint in memory: its family and Params of numpy arrays."""

  family: Family
  params: Params


def family_of(folder: pathlib.Path, stored: list[str]) -> Family:
  """The family of a Hugging Face folder.

  Args:
    folder: holds `config.json`.
    stored: names of the checkpoint's tensors.

  Raises:
    FileNotFoundError: without `config.json`.
    ValueError: for an unknown `model_type` or an unimplemented feature.
  """
  path = folder / 'config.json'
  if not path.is_file():
    raise FileNotFoundError(
      f'{folder} has no config.json; expected a Hugging Face model folder'
    )
  config = json.loads(path.read_text())
  kind = config.get('model_type')
  if kind == 'bert':
    pooler = 'pooler.dense.weight' in stored
    return bert.family(bert.config_from_hf(config, pooler))
  raise ValueError(
    f'{path}: unknown model_type {kind!r}' + trees.nearest(str(kind), ['bert'])
  )


def load(folder: str | pathlib.Path) -> Model:
  """Reads a Hugging Face folder into Params.

  Raises:
    ValueError: if checkpoint and key table do not match, listing each tensor.
  """
  folder = pathlib.Path(folder)
  tensors = safetensors.read(folder)
  family = family_of(folder, list(tensors))
  base.check_keys(family, list(tensors))
  return Model(family, base.pack(family.keys, tensors))
