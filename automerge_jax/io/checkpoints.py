"""Any checkpoint by its path: the format is found, the tensors are named.

| what | names |
|---|---|
| safetensors: a Hugging Face folder, sharded or not, or one file | as stored |
| Orbax: a checkpoint folder | keys from the root, joined by `/` |
| GGUF: a file, or a folder with one | Hugging Face's, see `io/gguf.py` |
| ONNX: a file, or a folder with one | Hugging Face's, see `io/onnx.py` |
| `BASE+ADAPTER`: one of these and a PEFT LoRA folder | those of the base |

Nothing is ever unpickled.
"""

import os
import pathlib

import numpy as np

from automerge_jax.io import mapped, safetensors
from automerge_jax.io.tensors import Checkpoint, TensorInfo, check_finite

__all__ = [
  'Checkpoint',
  'TensorInfo',
  'check_finite',
  'fingerprint',
  'open_checkpoint',
  'read',
]

_ORBAX = ('orbax.checkpoint', '_CHECKPOINT_METADATA')
_PICKLES = ('pytorch_model.bin', 'pytorch_model.bin.index.json')
_ADAPTER = 'adapter_config.json'


def open_checkpoint(path: str | pathlib.Path) -> Checkpoint:
  """Opens a checkpoint to read, a context manager.

  Args:
    path: a folder or file; `BASE+ADAPTER` adds a LoRA adapter to a base.

  Raises:
    FileNotFoundError: if there is no checkpoint, or a part of it is missing.
    ValueError: if it is damaged or of a format that is not read.
  """
  base, adapter = split_adapter(path)
  if adapter is not None:
    from automerge_jax.io import lora

    return lora.open_lora(open_checkpoint(base), adapter)
  kind, path = find(base)
  # Imported where they are needed: together they take seconds.
  if kind == 'orbax':
    from automerge_jax.io import orbax

    return orbax.open_tree(path)
  if kind == 'gguf':
    from automerge_jax.io import gguf

    return gguf.open_gguf(path)
  if kind == 'onnx':
    from automerge_jax.io import onnx

    return onnx.open_onnx(path)
  return mapped.open_mapped(path)


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors of a checkpoint; mapped into memory where it is possible."""
  with open_checkpoint(path) as source:
    return {name: source.get(name) for name in source.names()}


def fingerprint(path: str | pathlib.Path) -> str:
  """SHA-256 over the weight files, which is what a recipe pins.

  Raises:
    FileNotFoundError: if there is no checkpoint, or a part of it is missing.
  """
  base, adapter = split_adapter(path)
  kind, base = find(base)
  weights = _weights(kind, base)
  if adapter is not None:
    weights += [adapter / _ADAPTER, adapter / 'adapter_model.safetensors']
  return safetensors.combined_sha256(weights)


def split_adapter(
  path: str | pathlib.Path,
) -> tuple[pathlib.Path, pathlib.Path | None]:
  """`BASE+ADAPTER` in two; an existing path with a plus is one path."""
  base, plus, adapter = str(path).rpartition('+')
  if plus and not pathlib.Path(path).exists():
    return pathlib.Path(base), pathlib.Path(adapter)
  return pathlib.Path(path), None


def find(path: pathlib.Path) -> tuple[str, pathlib.Path]:
  """Format of a checkpoint, and the file or folder to open.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is of a format that is not read.
  """
  if path.is_file():
    if path.suffix in ('.safetensors', '.gguf', '.onnx'):
      return path.suffix[1:], path
    pickled = path.suffix in ('.bin', '.pt', '.pth')
    raise ValueError(
      f'{path} is not a checkpoint file that can be read; expected '
      f'.safetensors, .gguf or .onnx{_advice(pickled)}'
    )
  if not path.is_dir():
    raise FileNotFoundError(f'there is no checkpoint at {path}')
  if any((path / n).is_file() for n in (safetensors.SINGLE, safetensors.INDEX)):
    return 'safetensors', path
  if any((path / name).is_file() for name in _ORBAX):
    return 'orbax', path
  files = sorted(p for end in ('gguf', 'onnx') for p in path.glob(f'*.{end}'))
  if len(files) == 1:
    return files[0].suffix[1:], files[0]
  if files:
    raise ValueError(
      f'{path} holds several models: {[p.name for p in files]}; give the path '
      'of one of these files'
    )
  if (path / _ADAPTER).is_file():
    raise ValueError(
      f'{path} is a PEFT adapter, which is no model by itself; give it with '
      f'its base model as BASE+{path}'
    )
  if any((path / name).is_file() for name in _PICKLES):
    raise ValueError(
      f'{path} holds pickled weights only, which are not read because they can '
      f'run code{_advice(True)}'
    )
  raise FileNotFoundError(
    f'{path} holds no checkpoint; expected {safetensors.SINGLE}, '
    f'{safetensors.INDEX}, an Orbax checkpoint or one .gguf or .onnx file, '
    f'found {sorted(os.listdir(path))[:10]}'
  )


def _advice(pickled: bool) -> str:
  return (
    '; convert it where you trust it: load the model with transformers and '
    'call save_pretrained(FOLDER), which writes safetensors'
    if pickled
    else ''
  )


def _weights(kind: str, path: pathlib.Path) -> list[pathlib.Path]:
  if kind == 'safetensors' and path.is_dir():
    return sorted(set(safetensors.files(path).values()))
  if path.is_file():
    return [path]
  return sorted(p for p in path.rglob('*') if p.is_file())
