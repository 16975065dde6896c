"""Orbax checkpoints, the only place that imports Orbax (its v1 API).

Arrays are stored without their device placement, so that a checkpoint written
on one machine opens on any other; a save is whole or not there at all.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from automerge_jax import trees
from automerge_jax.io import sharded
from automerge_jax.io.tensors import Checkpoint, TensorInfo

_WRITTEN_AT_ONCE = 2**28  # bytes
_READ_AT_ONCE = 2**26


def save(
  path: str | pathlib.Path, tree: Any, metadata: dict[str, Any] | None = None
) -> None:
  """Writes a pytree of arrays and scalars, replacing what was there.

  Args:
    path: folder of the checkpoint.
    tree: the pytree.
    metadata: JSON values kept beside it.
  """
  ocp.save(
    _absolute(path), _host(tree), custom_metadata=metadata, overwrite=True
  )


def load(path: str | pathlib.Path, like: Any = None) -> Any:
  """Reads a pytree.

  Args:
    path: folder of the checkpoint.
    like: a pytree of arrays with the wanted structure, shapes and placement;
      without it, nested dicts and lists of numpy arrays.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if `like` and the checkpoint differ, listing each leaf.
  """
  path = _absolute(path)
  if not ocp.is_orbax_checkpoint(path):
    raise FileNotFoundError(f'{path} is not an Orbax checkpoint folder')
  if like is None:
    return ocp.load(path)
  _check(ocp.metadata(path).metadata, like, path)
  return ocp.load(path, like)


def metadata(path: str | pathlib.Path) -> dict[str, Any] | None:
  """What `save` was given as metadata; None where there is no checkpoint."""
  path = _absolute(path)
  if not ocp.is_orbax_checkpoint(path):
    return None
  return ocp.metadata(path).custom_metadata


def save_checkpoint(path: str | pathlib.Path, source: Checkpoint) -> None:
  """Writes the tensors of a checkpoint by their names, as one flat dict.

  Those of a safetensors checkpoint are handed over mapped, not read first.

  Args:
    path: new folder.
    source: open checkpoint.

  Raises:
    ValueError: for a tensor without elements, which Orbax does not store.
  """
  empty = [name for name in source.names() if not source.info(name).size]
  if empty:
    raise ValueError(
      f'{source.path} has tensors without elements, which Orbax does not '
      f'store: {empty}; write safetensors, or leave them out'
    )
  context = ocp.Context()
  # The arrays are read-only maps of a file, and stay so while this waits.
  context.memory.deepcopy_host_arrays = False
  context.memory.write_concurrent_bytes = _WRITTEN_AT_ONCE
  with context:
    save(path, {name: source.get(name) for name in source.names()})


def open_tree(path: str | pathlib.Path) -> Checkpoint:
  """The leaves of a checkpoint, read when they are asked for, some at a time.

  Names are the keys from the root joined by `/`: those of a flat dict of
  tensors, as `save_checkpoint` writes it, are the keys themselves.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if two leaves have one name, or a leaf is no array or number.
  """
  path = _absolute(path)
  if not ocp.is_orbax_checkpoint(path):
    raise FileNotFoundError(f'{path} is not an Orbax checkpoint folder')
  stored = ocp.metadata(path).metadata
  leaves, structure = jax.tree.flatten(stored)
  names = list(trees.flatten(stored))
  if len(names) != len(leaves):
    raise ValueError(
      f'{path} has {len(leaves)} leaves but {len(names)} names when keys are '
      'joined by "/"; rename keys that hold a "/"'
    )
  infos = {}
  for name, leaf in zip(names, leaves, strict=True):
    # Numbers come as Python values, whose types NumPy knows.
    dtype = np.dtype(getattr(leaf, 'dtype', type(leaf)))
    if dtype.kind in 'OUS':
      raise ValueError(
        f'{path} has {type(leaf).__name__} at {name!r}, expected an array or a '
        'number; save the parameters alone'
      )
    infos[name] = TensorInfo(tuple(getattr(leaf, 'shape', ())), dtype)

  # A call costs some 50 ms however little it reads, so neighbours come along.
  groups = list(sharded.shards(infos, _READ_AT_ONCE).values())
  group_of = {name: i for i, group in enumerate(groups) for name in group}

  @functools.lru_cache(maxsize=2)
  def load_group(index: int) -> dict[str, np.ndarray]:
    wanted = [
      ocp.PLACEHOLDER
      if group_of[name] != index
      else np.empty(*infos[name])
      if hasattr(leaf, 'shape')
      else leaf
      for name, leaf in zip(names, leaves, strict=True)
    ]
    like = jax.tree.unflatten(structure, wanted)
    loaded = zip(names, jax.tree.leaves(ocp.load(path, like)), strict=True)
    return {
      n: np.asarray(x, infos[n].dtype)
      for n, x in loaded
      if x is not ocp.PLACEHOLDER
    }

  def read(name: str) -> np.ndarray:
    array = load_group(group_of[name])[name].view()
    array.flags.writeable = False
    return array

  return Checkpoint(str(path), infos, read, load_group.cache_clear)


def save_step(
  folder: str | pathlib.Path, step: int, tree: Any, keep: int = 2
) -> None:
  """Writes the state of one step and keeps the newest `keep` of them."""
  policy = ocp.training.preservation_policies.LatestN(keep)
  with ocp.training.Checkpointer(
    _absolute(folder), preservation_policy=policy, cleanup_tmp_directories=True
  ) as checkpointer:
    checkpointer.save(step, _without_empty(_host(tree)), overwrite=True)


def load_step(folder: str | pathlib.Path, like: Any) -> tuple[int, Any] | None:
  """The newest step and its state, or None if there is none yet.

  Raises:
    ValueError: if `like` and the checkpoint differ, listing each leaf.
  """
  folder = _absolute(folder)
  if not folder.is_dir():
    return None
  with ocp.training.Checkpointer(folder) as checkpointer:
    if checkpointer.latest is None:
      return None
    step = checkpointer.latest.step
    return step, _load_one(checkpointer, step, like, folder)


def restore_step(
  folder: str | pathlib.Path, like: Any
) -> tuple[int, Any] | None:
  """The newest step that can be read, and its state on the default device.

  For states that can also be computed anew: a step that is damaged, or has
  another structure than is asked for, is passed over with a warning.

  Args:
    folder: as `save_step` was given it.
    like: a pytree of arrays or of their shapes and types.

  Returns:
    The state bit for bit, or None if no step can be read.
  """
  folder = _absolute(folder)
  if not folder.is_dir():
    return None
  steps = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
  blank = jax.tree.map(_blank, like)
  for step in sorted(steps, reverse=True):
    try:
      with ocp.training.Checkpointer(folder) as checkpointer:
        state = _load_one(checkpointer, step, blank, folder)
    except Exception as error:  # whatever a damaged file leads to
      told = str(error).partition('\n')[0][:200]
      logging.warning('%s is passed over: %s', folder / str(step), told)
      continue
    return step, jax.tree.map(jnp.asarray, state)
  return None


def _load_one(
  checkpointer: ocp.training.Checkpointer,
  step: int,
  like: Any,
  folder: pathlib.Path,
) -> Any:
  stored = _without_empty(like)
  _check(checkpointer.metadata(step).metadata, stored, folder / str(step))
  loaded = iter(jax.tree.leaves(checkpointer.load(step, stored)))
  return jax.tree.map(
    lambda leaf: leaf if _is_empty(leaf) else next(loaded), like
  )


def _is_empty(leaf: Any) -> bool:
  return getattr(leaf, 'size', 1) == 0


def _without_empty(tree: Any) -> Any:
  """The tree with None for arrays without elements, which are not stored."""
  return jax.tree.map(lambda leaf: None if _is_empty(leaf) else leaf, tree)


def _blank(leaf: Any) -> Any:
  """An array like an array or its shape and type, of any content."""
  make = jnp.empty if _has_key_type(leaf) else np.empty
  return make(leaf.shape, leaf.dtype)


def _absolute(path: str | pathlib.Path) -> pathlib.Path:
  return pathlib.Path(path).absolute()  # Orbax refuses relative paths


def _is_key(leaf: Any) -> bool:
  return isinstance(leaf, jax.Array) and _has_key_type(leaf)


def _has_key_type(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _host(tree: Any) -> Any:
  return jax.tree.map(
    lambda leaf: (
      np.asarray(leaf)
      if isinstance(leaf, jax.Array) and not _is_key(leaf)
      else leaf
    ),
    tree,
  )


def _check(stored: Any, like: Any, path: pathlib.Path) -> None:
  """Raises ValueError where `like` asks for other leaves than are stored."""
  have, want = trees.flatten(stored), trees.flatten(like)
  for name in set(have) & set(want):
    if _is_key(want[name]) or not hasattr(want[name], 'shape'):
      have[name] = want[name] = np.zeros(())  # stored in a form of their own
  trees.check_same(have, want, f'checkpoint {path}')
