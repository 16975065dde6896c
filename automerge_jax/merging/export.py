"""From a recipe to a Hugging Face folder, whole or not at all."""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Mapping

from automerge_jax import recipe as recipes
from automerge_jax.io import safetensors
from automerge_jax.merging import streaming
from automerge_jax.recipe import Recipe

RECIPE = 'recipe.yaml'
# Files that describe a model besides its weights, copied from the first model.
_COMPANIONS = (
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'vocab.txt',
  'vocab.json',
  'merges.txt',
)


def rename(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
  """The recipe with its models called by other names."""
  slices = tuple(
    dataclasses.replace(
      part,
      base_model=names.get(part.base_model or '', part.base_model),
      sources=tuple(
        dataclasses.replace(s, model=names.get(s.model, s.model))
        for s in part.sources
      ),
    )
    for part in recipe.slices
  )
  return dataclasses.replace(
    recipe,
    slices=slices,
    base_model=names.get(recipe.base_model or '', recipe.base_model),
    inputs={names.get(k, k): v for k, v in recipe.inputs.items()},
  )


def export(
  recipe: Recipe,
  folders: Mapping[str, pathlib.Path],
  out: pathlib.Path,
  companions: Mapping[str, str | pathlib.Path] | None = None,
) -> None:
  """Merges into the folder `out`, which must not exist yet.

  The folder holds the merged weights, the leading model's config and tokenizer,
  and `recipe.yaml`, which names its inputs relative to `out` and pins their
  SHA-256; `experiments.merge` makes the same tensors from it.

  Args:
    recipe: what to merge.
    folders: where each model that the recipe names is.
    out: made under another name and renamed when it is complete.
    companions: further files, by name in `out`: their text, or a file to copy.

  Raises:
    FileExistsError: if `out` exists.
    ValueError: if an input is not the one that the recipe pins.
  """
  if out.exists():
    raise FileExistsError(f'{out} exists; choose another folder or remove it')
  inputs = {m: safetensors.fingerprint(folders[m]) for m in recipe.models}
  for model, pinned in recipe.inputs.items():
    if inputs.get(model, pinned) != pinned:
      raise ValueError(
        f'{folders[model]} has weights with SHA-256 {inputs[model]}, but '
        f'{pinned} is pinned; restore it or remove its line of `inputs`'
      )
  partial = out.with_name(out.name + '.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  safetensors.write(partial, dict(streaming.merge(recipe, folders)))
  lead = folders[recipe.models[0]]
  for name in _COMPANIONS:
    if (lead / name).is_file():
      shutil.copyfile(lead / name, partial / name)
  final = dataclasses.replace(recipe, inputs=inputs)
  # Resolved as `read` resolves them: a link on the way counts where it leads.
  where = {m: folders[m].resolve() for m in recipe.models}
  final = rename(
    final, {m: os.path.relpath(where[m], out.resolve()) for m in where}
  )
  (partial / RECIPE).write_text(recipes.to_yaml(final))
  for name, content in (companions or {}).items():
    (partial / name).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, pathlib.Path):
      shutil.copyfile(content, partial / name)
    else:
      (partial / name).write_text(content)
  partial.rename(out)


def read(path: pathlib.Path) -> tuple[Recipe, dict[str, pathlib.Path]]:
  """A recipe file and the folders of its models, relative to the file.

  Raises:
    FileNotFoundError: if a model's folder is not there.
  """
  recipe = recipes.from_yaml(path.read_text(), str(path))
  folders = {m: (path.parent / m).resolve() for m in recipe.models}
  for model, folder in folders.items():
    if not folder.is_dir():
      raise FileNotFoundError(
        f'{path} names the model {model!r}, but {folder} is no folder; models '
        'are given relative to the recipe'
      )
  return recipe, folders
