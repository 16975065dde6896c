"""Runs a model on given inputs, to compare it with another implementation.

  python -m experiments.forward --model=DIR --inputs=IN.npz --out=OUT.npz

IN.npz holds `input_ids` [B, T] and, if there is padding, `attention_mask`; for
an encoder-decoder model also `decoder_input_ids` and `decoder_attention_mask`;
for a vision model `pixel_values` [B, C, H, W], normalised. No tokenizer is
needed. OUT.npz holds `logits` [B, T, V] of a model with a vocabulary head, else
`last_hidden_state` [B, T, d], float32. What stands at padding means nothing.
"""

import pathlib
import sys
import zipfile
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from automerge_jax.models import base, registry
from automerge_jax.types import Array, Family, Params
from experiments import startup

DTYPES = ('float32', 'bfloat16', 'float16')
IMAGES = 'pixel_values'
TYPES = 'token_type_ids'


def run(
  model: str | pathlib.Path,
  given: Mapping[str, np.ndarray],
  dtype: str = 'float32',
) -> dict[str, np.ndarray]:
  """Outputs of a model.

  Args:
    model: as `registry.load` takes it.
    given: arrays by the names that the module's docstring tells.
    dtype: one of `DTYPES`, of weights and activations.

  Returns:
    `logits` or `last_hidden_state`, float32.

  Raises:
    FileNotFoundError: if there is no model.
    ValueError: naming an input that is missing, unknown or does not fit.
  """
  loaded = registry.load(model)
  inputs = _inputs(loaded.family, loaded.params, given)
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), loaded.params)
  name = 'last_hidden_state' if loaded.family.logits is None else 'logits'

  def forward(params: Params, inputs: Mapping[str, Array]) -> Array:
    hidden = base.forward(loaded.family, params, inputs)
    if loaded.family.logits is None:
      return hidden
    return loaded.family.logits(params, hidden)

  return {name: np.asarray(jax.jit(forward)(params, inputs), np.float32)}


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Arrays of an .npz file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is none, or holds Python objects.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      return dict(file)
  except (ValueError, zipfile.BadZipFile, EOFError, TypeError) as error:
    raise ValueError(
      f'{path} is no .npz file of plain arrays ({error}); write it with '
      'numpy.savez'
    ) from error


def _inputs(
  family: Family, params: Params, given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """What the family takes, checked."""
  word = params['stem'].get('word')
  if word is None:
    needed, optional = [IMAGES], []
  else:
    needed, optional = ['input_ids'], ['attention_mask']
    if 'segment' in params['stem']:
      optional.append(TYPES)
    if family.encoder is not None:
      needed.append('decoder_input_ids')
      optional.append('decoder_attention_mask')
  missing = [name for name in needed if name not in given]
  unknown = sorted(set(given) - {*needed, *optional})
  if missing or unknown:
    raise ValueError(
      f'inputs lack {missing} and have the unknown {unknown}; a model of the '
      f'family {family.name!r} takes {needed} and, optionally, {optional}'
    )
  if word is None:
    return {'pixels': _pixels(given[IMAGES])}
  vocabulary = word['embedding'].shape[0]
  inputs = _text(family, vocabulary, given, '')
  if TYPES in given:
    shape = given['input_ids'].shape
    types = params['stem']['segment']['embedding'].shape[0]
    inputs['segments'] = _integers(TYPES, given[TYPES], types, shape)
  if family.encoder is not None:
    inputs |= _text(family, vocabulary, given, 'decoder_')
    rows = [len(inputs[name]) for name in ('ids', 'decoder_ids')]
    if rows[0] != rows[1]:
      raise ValueError(
        f'input_ids have {rows[0]} rows and decoder_input_ids {rows[1]}; '
        'expected as many'
      )
  return inputs


def _pixels(array: np.ndarray) -> np.ndarray:
  if array.ndim != 4 or not array.size or array.dtype.kind != 'f':
    raise ValueError(
      f'{IMAGES} is {array.dtype} {list(array.shape)}; expected floats '
      '[B, C, H, W], normalised as the model wants it'
    )
  if not np.isfinite(array).all():
    raise ValueError(f'{IMAGES} has values that are not finite')
  return array.astype(np.float32)


def _text(
  family: Family,
  vocabulary: int,
  given: Mapping[str, np.ndarray],
  prefix: str,
) -> dict[str, np.ndarray]:
  """`ids` and `mask`, both [B, T], under the prefix."""
  name, other = f'{prefix}input_ids', f'{prefix}attention_mask'
  ids = _integers(name, given[name], vocabulary)
  most = family.max_tokens
  if most is not None and ids.shape[1] > most:
    raise ValueError(
      f'{name} have {ids.shape[1]} tokens a row; the model takes {most}: cut '
      'them'
    )
  mask = np.ones_like(ids)
  if other in given:
    mask = _integers(other, given[other], 2, ids.shape)
    if not mask.any(1).all():
      raise ValueError(
        f'{other} leaves row {int(mask.any(1).argmin())} without a token'
      )
  return {f'{prefix}ids': ids, f'{prefix}mask': mask}


def _integers(
  name: str,
  array: np.ndarray,
  below: int,
  shape: tuple[int, ...] | None = None,
) -> np.ndarray:
  """The array as int32, from 0 to below `below`."""
  fits = array.ndim == 2 and array.size and array.dtype.kind in 'iub'
  if not fits or (shape is not None and array.shape != shape):
    raise ValueError(
      f'{name} is {array.dtype} {list(array.shape)}; expected integers '
      f'{list(shape or ("B", "T"))}'
    )
  wrong = array[(array < 0) | (array >= below)]
  if wrong.size:
    raise ValueError(
      f'{name} has the value {int(wrong[0])}; expected 0 to {below - 1}'
    )
  return array.astype(np.int32)


def _define_flags() -> None:
  """Flags of this command; not when it is imported beside another one."""
  about = 'A checkpoint: folder, file or BASE+ADAPTER.'
  flags.DEFINE_string('model', None, about, required=True)
  flags.DEFINE_string('inputs', None, 'The .npz to read.', required=True)
  flags.DEFINE_string('out', None, 'The .npz to write.', required=True)
  flags.DEFINE_enum('dtype', DTYPES[0], DTYPES, 'Of the computation.')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  told = flags.FLAGS
  try:
    outputs = run(told.model, read(told.inputs), told.dtype)
  except (OSError, ValueError) as error:
    sys.exit(f'forward: {error}')
  path = pathlib.Path(told.out)
  partial = path.with_name(path.name + '.partial')
  with open(partial, 'wb') as file:
    np.savez(file, **outputs)
  partial.replace(path)
  for name, array in outputs.items():
    print(f'{name} {list(array.shape)} in {path}')


if __name__ == '__main__':
  _define_flags()
  app.run(main)
