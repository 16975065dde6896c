"""A folder with what was measured of one model.

statistics.json      of which model, on which items; norm of the information
fisher.safetensors   diagonal Fisher information, by stored name
gram.safetensors     Gram matrices [in, in] by stored name of the weight
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from automerge_jax.io import atomic, mapped, safetensors
from automerge_jax.io.tensors import Checkpoint
from automerge_jax.statistics import information

ABOUT = 'statistics.json'
FISHER = 'fisher.safetensors'
GRAM = 'gram.safetensors'


def save(
  folder: str | pathlib.Path,
  about: Mapping[str, Any],
  fisher: Mapping[str, np.ndarray] | None = None,
  gram: Mapping[str, np.ndarray] | None = None,
) -> None:
  """Writes a folder, which must not exist yet, whole or not at all.

  Args:
    folder: to be made.
    about: JSON values; `model` is the fingerprint of the model's weights.
    fisher: information by stored name, if measured.
    gram: Gram matrices by stored name, if measured.

  Raises:
    FileExistsError: if the folder exists.
    ValueError: if there is nothing to save.
  """
  found = {FISHER: fisher, GRAM: gram}
  found = {file: tensors for file, tensors in found.items() if tensors}
  if not found:
    raise ValueError('neither Fisher information nor Gram matrices to save')
  about = dict(about)
  if fisher:
    about['fisher_norm'] = information.norm(fisher)
  needed = sum(t.nbytes for tensors in found.values() for t in tensors.values())
  with atomic.folder(folder, needed) as partial:
    for file, tensors in found.items():
      safetensors.write(partial, tensors, file)
    (partial / ABOUT).write_text(json.dumps(about, indent=2) + '\n')


def about(folder: str | pathlib.Path) -> dict[str, Any]:
  """What `statistics.json` says.

  Raises:
    FileNotFoundError: if the folder holds no statistics.
  """
  path = pathlib.Path(folder) / ABOUT
  if not path.is_file():
    raise FileNotFoundError(
      f'{folder} has no {ABOUT}; expected a folder made by '
      'experiments.statistics'
    )
  return json.loads(path.read_text())


def load(
  folder: str | pathlib.Path, model: str | None = None
) -> dict[str, Mapping[str, np.ndarray]]:
  """Statistics by name, `{statistic: {stored name: array}}`.

  Tensors are mapped from the file and read when they are asked for. There is
  `fisher` with `fisher_norm` (of the whole model, [] for every tensor), and
  `gram`, as far as measured.

  Args:
    folder: made by `save`.
    model: fingerprint of the model that they shall belong to; None for any.

  Raises:
    FileNotFoundError: if the folder holds no statistics.
    ValueError: if they belong to another model, or a file is damaged.
  """
  folder = pathlib.Path(folder)
  told = about(folder)
  if model is not None and told.get('model') != model:
    raise ValueError(
      f'{folder} was measured on weights with SHA-256 {told.get("model")}, not '
      f'{model}; measure this model with experiments.statistics'
    )
  found: dict[str, Mapping[str, np.ndarray]] = {}
  if (folder / FISHER).is_file():
    tensors = _Tensors(mapped.open_mapped(folder / FISHER))
    found['fisher'] = tensors
    size = np.float64(told['fisher_norm'])
    found['fisher_norm'] = dict.fromkeys(tensors, size)
  if (folder / GRAM).is_file():
    found['gram'] = _Tensors(mapped.open_mapped(folder / GRAM))
  return found


class _Tensors(Mapping[str, np.ndarray]):
  """A checkpoint as a mapping; arrays are made when asked for."""

  def __init__(self, checkpoint: Checkpoint):
    self._checkpoint = checkpoint
    self._names = dict.fromkeys(checkpoint.names())

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._names:
      raise KeyError(name)
    return self._checkpoint.get(name)

  def __contains__(self, name: object) -> bool:
    return name in self._names

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)
