"""A recipe's models, opened and with one vocabulary."""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from automerge_jax import trees
from automerge_jax.io import tokenizers
from automerge_jax.io.checkpoints import find, open_checkpoint, split_adapter
from automerge_jax.io.tensors import Checkpoint, TensorInfo
from automerge_jax.merging import alignment as alignments
from automerge_jax.merging import embeddings, layers, measured, vocabulary
from automerge_jax.merging.alignment import Alignment
from automerge_jax.recipe import Recipe
from automerge_jax.statistics import folder as stored

CONFIG = 'config.json'


@dataclasses.dataclass(frozen=True)
class Opened:
  """The models of a recipe.

  Attributes:
    checkpoints: of each model; vocabulary tensors have the merged rows.
    configs: `config.json` of each model that has one.
    folders: where each model's config and tokenizer are.
    alignment: of the vocabularies, if the recipe asks for it.
    statistics: what was measured of models, as far as the recipe says where.
  """

  checkpoints: Mapping[str, Checkpoint]
  configs: Mapping[str, Mapping[str, Any]]
  folders: Mapping[str, pathlib.Path]
  alignment: Alignment | None
  statistics: Mapping[str, measured.Statistics]


@contextlib.contextmanager
def opened(
  recipe: Recipe, paths: Mapping[str, str | pathlib.Path]
) -> Iterator[Opened]:
  """Opens every model of a recipe, for the time of a `with`.

  Args:
    recipe: what will be merged.
    paths: checkpoint of each model that the recipe names.

  Raises:
    ValueError: if vocabularies differ and the recipe does not say how to align
      them, or a checkpoint is damaged.
    FileNotFoundError: if there is no checkpoint.
  """
  with contextlib.ExitStack() as stack:
    checkpoints = {
      model: stack.enter_context(open_checkpoint(paths[model]))
      for model in recipe.models
    }
    folders = {m: _folder(paths[m], stack) for m in recipe.models}
    configs = {
      model: read_json(folder / CONFIG)
      for model, folder in folders.items()
      if (folder / CONFIG).is_file()
    }
    statistics = load_statistics(recipe)
    texts = {m: tokenizers.read(folder) for m, folder in folders.items()}
    shapes = {
      model: {name: c.info(name).shape for name in c.names()}
      for model, c in checkpoints.items()
    }
    rows = {m: vocabulary.tensors(shapes[m]) for m in checkpoints}
    sizes = {m: next(iter(own.values())) for m, own in rows.items() if own}
    if recipe.tokenizer is None:
      vocabulary.check(texts, sizes)
      yield Opened(checkpoints, configs, folders, None, statistics)
      return
    alignment = alignments.align(
      recipe.tokenizer, texts, recipe.base_model, sizes
    )
    aligned = {
      model: _aligned(model, checkpoints, rows, sizes, alignment)
      for model in checkpoints
    }
    yield Opened(aligned, configs, folders, alignment, statistics)


def load_statistics(recipe: Recipe) -> dict[str, measured.Statistics]:
  """What was measured of each model that the recipe has it of.

  Raises:
    ValueError: for statistics of something that is no model of the recipe.
    FileNotFoundError: if there are none in a folder.
  """
  for model in recipe.statistics:
    if model not in recipe.models:
      raise ValueError(
        f'statistics are given of {model!r}, which is none of the models'
        + trees.nearest(model, recipe.models)
      )
  return {m: stored.load(path) for m, path in recipe.statistics.items()}


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """What a config file holds.

  Raises:
    ValueError: naming the file, if it is damaged.
  """
  try:
    return dict(json.loads(path.read_text(encoding='utf-8')))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{path} is damaged: expected a JSON object ({error}); fetch it again'
    ) from error


def _folder(
  path: str | pathlib.Path, stack: contextlib.ExitStack
) -> pathlib.Path:
  """The folder that config and tokenizer lie in.

  A GGUF file holds its own; what lies beside it goes first.
  """
  base, _ = split_adapter(path)
  folder = base if base.is_dir() else base.parent
  kind, file = find(base)
  if kind != 'gguf' or (folder / CONFIG).is_file():
    return folder
  from automerge_jax.io import gguf  # takes a second to import

  held = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
  for name, text in gguf.companions(file).items():
    (held / name).write_text(text, encoding='utf-8')
  return held


def _aligned(
  model: str,
  checkpoints: Mapping[str, Checkpoint],
  rows: Mapping[str, Mapping[str, int]],
  sizes: Mapping[str, int],
  alignment: Alignment,
) -> Checkpoint:
  """A checkpoint whose vocabulary tensors have the merged vocabulary's rows."""
  own = checkpoints[model]
  if model not in sizes or alignment.keeps(model, sizes[model]):
    return own
  infos = {name: own.info(name) for name in own.names()}
  for name in rows[model]:
    shape = (alignment.size, *infos[name].shape[1:])
    infos[name] = TensorInfo(shape, infos[name].dtype)

  def read(name: str):
    if name not in rows[model]:
      return own.get(name)
    tensors = {}
    for other, names in rows.items():
      held = name if name in names else layers.tied_embedding(name, names)
      if held is not None:
        tensors[other] = checkpoints[other].get(held)
    return embeddings.take(alignment, model, tensors).astype(infos[name].dtype)

  return Checkpoint(own.path, infos, read)
