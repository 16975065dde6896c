"""PEFT LoRA adapters as models: base + scale * B @ A, a tensor at a time.

The format: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from automerge_jax import trees
from automerge_jax.io import mapped
from automerge_jax.io.tensors import Checkpoint, TensorInfo, is_floating

CONFIG = 'adapter_config.json'
WEIGHTS = 'adapter_model.safetensors'
PREFIX = 'base_model.model.'

_FACTOR = re.compile(r'(.*)\.lora_(embedding_)?([AB])(?:\.weight)?')
_WRAPPERS = re.compile(r'\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)')
# Features that change what the factors mean; each has its own key.
_REFUSED = (
  'use_dora',
  'lora_bias',
  'use_qalora',
  'use_bdlora',
  'kasa_config',
  'lora_ga_config',
  'monteclora_config',
  'velora_config',
  'alora_invocation_tokens',
  'layer_replication',
  'target_parameters',
  'trainable_token_indices',
)
# Ways to begin that leave the weights of the base as they were.
_BEGINNINGS = (True, False, 'gaussian', 'eva', 'orthogonal')


class _Factors(NamedTuple):
  """Names of A [r, in] and B [out, r] in the adapter, and how they enter."""

  a: str
  b: str
  scale: float
  transpose: bool


def open_lora(base: Checkpoint, adapter: str | pathlib.Path) -> Checkpoint:
  """A base with a LoRA adapter added to it.

  Sums are made in float32 when a tensor is asked for and cast once to the
  base's type. Tensors that the adapter holds whole (`modules_to_save`, trained
  biases) replace those of the base.

  Args:
    base: open checkpoint; closed with the result.
    adapter: folder with `adapter_config.json` and `adapter_model.safetensors`.

  Raises:
    FileNotFoundError: if the folder lacks one of these.
    ValueError: for a variant that is not a plain sum (such as DoRA), or an
      adapter that does not fit the base.
  """
  folder = pathlib.Path(adapter)
  config = _config(folder)
  stored = mapped.open_mapped(folder / WEIGHTS)
  factors, whole = _sort(stored, base, config, folder)
  infos = {name: base.info(name) for name in base.names()}
  for name, key in whole.items():
    info = stored.info(key)
    old = infos.get(name)
    infos[name] = TensorInfo(info.shape, old.dtype if old else info.dtype)

  def read(name: str) -> np.ndarray:
    if name not in whole and name not in factors:
      return base.get(name)
    array = base.get(name) if name not in whole else stored.get(whole[name])
    if name in factors:
      array = _sum(array, stored, factors[name])
    array = array.astype(infos[name].dtype, copy=False)
    array.flags.writeable = False
    return array

  def close() -> None:
    stored.__exit__()
    base.__exit__()

  return Checkpoint(f'{base.path}+{folder}', infos, read, close)


def conv1d_modules(checkpoint: Checkpoint) -> dict[str, bool]:
  """Whether modules of a name, such as `c_attn`, hold weights as [in, out].

  Told by biases, which are as long as the outputs; names that have none, or
  square weights only, are not in the result.
  """
  names = set(checkpoint.names())
  stored: dict[str, bool] = {}
  for name in names:
    module, _, kind = name.rpartition('.')
    if kind != 'weight' or f'{module}.bias' not in names:
      continue
    shape = checkpoint.info(name).shape
    length = checkpoint.info(f'{module}.bias').shape
    if len(shape) == 2 and shape[0] != shape[1]:
      stored[module.rpartition('.')[2]] = length == shape[1:]
  return stored


def _sum(
  weight: np.ndarray, stored: Checkpoint, factors: _Factors
) -> np.ndarray:
  a = stored.get(factors.a).astype(np.float32)
  b = stored.get(factors.b).astype(np.float32)
  delta = b @ a
  delta *= np.float32(factors.scale)
  delta = delta.T if factors.transpose else delta
  return weight.astype(np.float32, copy=False) + delta


def _config(folder: pathlib.Path) -> dict[str, Any]:
  for name in (CONFIG, WEIGHTS):
    if not (folder / name).is_file():
      pickled = (folder / 'adapter_model.bin').is_file()
      raise FileNotFoundError(
        f'{folder} has no {name}; expected a PEFT adapter folder'
        + (', saved with safe_serialization=True' if pickled else '')
      )
  path = folder / CONFIG
  try:
    config = dict(json.loads(path.read_text()))
    config['r'], config['lora_alpha']
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path} is damaged: expected JSON with r and lora_alpha '
      f'({type(error).__name__}: {error})'
    ) from error
  kind = config.get('peft_type', 'LORA')
  beginning = config.get('init_lora_weights', True)
  refused = [f'{key}={config[key]!r}' for key in _REFUSED if config.get(key)]
  if kind != 'LORA':
    refused.append(f'peft_type={kind!r}')
  if beginning not in _BEGINNINGS:
    refused.append(f'init_lora_weights={beginning!r}')
  if refused:
    raise ValueError(
      f'{path} says {", ".join(refused)}, which is more than a LoRA sum; merge '
      'it into its base with PEFT (merge_and_unload) and give that model'
    )
  return config


def _sort(
  stored: Checkpoint,
  base: Checkpoint,
  config: Mapping[str, Any],
  folder: pathlib.Path,
) -> tuple[dict[str, _Factors], dict[str, str]]:
  """Factors, and names of whole tensors, by the base's tensor names."""
  pairs: dict[tuple[str, bool], dict[str, str]] = {}
  whole = {}
  for key in stored.names():
    match = _FACTOR.fullmatch(key)
    if match:
      module = match[1].removeprefix(PREFIX)
      pairs.setdefault((module, bool(match[2])), {})[match[3]] = key
    elif '.lora_' in key:
      raise ValueError(
        f'{folder} has a tensor {key!r}, which is more than a LoRA sum; merge '
        'it into its base with PEFT (merge_and_unload) and give that model'
      )
    else:
      name = _WRAPPERS.sub('', key.removeprefix(PREFIX))
      whole[_match(name, base) or name] = key
  conv1d = conv1d_modules(base)
  factors = {}
  for (module, embedding), pair in pairs.items():
    name = _match(f'{module}.weight', base)
    if name is None or set(pair) != {'A', 'B'}:
      raise ValueError(
        f'{folder} adapts {module!r} by {sorted(pair)}, but '
        + (
          f'{base.path} has no such weight; is it another base?'
          if name is None
          else 'A and B are needed; save the adapter again'
        )
      )
    a, b = (stored.info(pair[key]).shape for key in 'AB')
    rank = _of_pattern(config, 'rank_pattern', module, config['r'])
    alpha = _of_pattern(config, 'alpha_pattern', module, config['lora_alpha'])
    want = base.info(name).shape
    have = (b[0], a[-1])
    if (
      len(a) != 2
      or len(b) != 2
      or not a[0] == b[1] == rank
      or want not in (have, have[::-1])
      or not is_floating(base.info(name).dtype)
    ):
      raise ValueError(
        f'{folder} has factors of shapes {a} and {b} for {name!r}, whose shape '
        f'is {want} in {base.path} and rank {rank} in {CONFIG}; only sums of '
        'matrices are supported, and the base must be the one it was trained on'
      )
    transpose = embedding or have != want
    if not embedding and have == have[::-1]:
      last = module.rpartition('.')[2]
      transpose = conv1d.get(last, bool(config.get('fan_in_fan_out')))
    divisor = rank**0.5 if config.get('use_rslora') else rank
    factors[name] = _Factors(pair['A'], pair['B'], alpha / divisor, transpose)
  return factors, whole


def _of_pattern(
  config: Mapping[str, Any], table: str, module: str, default: float
) -> Any:
  """Value of the first pattern that the end of a module's name matches."""
  for pattern, value in (config.get(table) or {}).items():
    if re.fullmatch(rf'(.*\.)?({pattern})', module):
      return value
  return default


def _match(name: str, base: Checkpoint) -> str | None:
  """The base's name of a tensor, which may lack or have a model prefix."""
  names = base.names()
  if name in names:
    return name
  near = [n for n in names if n.endswith(f'.{name}') or name.endswith(f'.{n}')]
  if len(near) > 1:
    raise ValueError(
      f'{base.path} has several tensors that {name!r} may mean:'
      f'{trees.listing(near)}'
    )
  return near[0] if near else None
