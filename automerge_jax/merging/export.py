"""From a recipe to a Hugging Face folder, whole or not at all."""

import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping

from automerge_jax import recipe as recipes
from automerge_jax import trees
from automerge_jax.io import atomic, checkpoints, lora_extraction, sharded
from automerge_jax.merging import checks, sources, streaming
from automerge_jax.merging import companions as companions_lib
from automerge_jax.merging import plan as plans
from automerge_jax.merging.plan import Plan, Step
from automerge_jax.recipe import Recipe
from automerge_jax.statistics import folder as measured_folder

RECIPE = 'recipe.yaml'
CARD = 'README.md'
ORBAX = 'orbax'
LORA = 'lora'


def rename(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
  """The recipe with its models called by other names."""

  def renamed(part):
    return dataclasses.replace(
      part,
      parts=tuple(map(renamed, part.parts)),
      base_model=names.get(part.base_model or '', part.base_model),
      sources=tuple(
        dataclasses.replace(s, model=names.get(s.model, s.model))
        for s in part.sources
      ),
    )

  def token(spec):
    source = spec.source
    if isinstance(source, recipes.ModelToken):
      model = names.get(source.model, source.model)
      source = dataclasses.replace(source, model=model)
    elif isinstance(source, str):
      source = names.get(source, source)
    return dataclasses.replace(spec, source=source)

  tokenizer = recipe.tokenizer
  if tokenizer is not None:
    tokenizer = dataclasses.replace(
      tokenizer,
      source=names.get(tokenizer.source, tokenizer.source),
      tokens={text: token(spec) for text, spec in tokenizer.tokens.items()},
    )
  return dataclasses.replace(
    recipe,
    slices=tuple(map(renamed, recipe.slices)),
    modules=tuple(
      dataclasses.replace(m, slices=tuple(map(renamed, m.slices)))
      for m in recipe.modules
    ),
    base_model=names.get(recipe.base_model or '', recipe.base_model),
    inputs={names.get(k, k): v for k, v in recipe.inputs.items()},
    statistics={names.get(k, k): v for k, v in recipe.statistics.items()},
    tokenizer=tokenizer,
  )


def export(
  recipe: Recipe,
  folders: Mapping[str, str | pathlib.Path],
  out: pathlib.Path,
  companions: Mapping[str, str | pathlib.Path] | None = None,
  *,
  max_shard_size: str = '5GB',
  with_orbax: bool = False,
  lora_rank: int = 0,
  workers: int | None = None,
  started: Callable[[Plan], None] = lambda plan: None,
  done: Callable[[Step], None] = lambda step: None,
) -> None:
  """Merges into the folder `out`, which must not exist yet.

  The folder holds the merged weights, config, tokenizer, a model card, and
  `recipe.yaml`, which names its inputs relative to `out` and pins their
  SHA-256; `experiments.merge` makes the same tensors from it.

  Args:
    recipe: what to merge.
    folders: checkpoint of each model that the recipe names.
    out: made under another name and renamed when it is complete.
    companions: further files, by name in `out`: their text, or a file to copy.
    max_shard_size: most bytes of a weight file.
    with_orbax: also write the weights as an Orbax checkpoint, `out`/orbax.
    lora_rank: if not 0, also write an adapter of that rank which brings the
      leading model near the merge, `out`/lora, with its errors.
    workers: see `streaming.run`.
    started, done: are told of the plan, and of every tensor that is complete.

  Raises:
    FileExistsError: if `out` exists.
    ValueError: if an input is not the one that the recipe pins, or the models
      do not fit the recipe.
    OSError: if the disk is full or cannot be written to.
  """
  with sources.opened(recipe, folders) as models:
    plan = plans.make(recipe, models.checkpoints)
    # What may fail, fails before the merge.
    files = companions_lib.files(recipe, models, plan)
    infos = {step.output.name: step.info for step in plan.steps}
    lead = models.checkpoints[recipe.models[0]]
    if lora_rank:
      held = {name: lead.info(name) for name in lead.names()}
      trees.check_same(infos, held, f'for an adapter of {lead.path}, the merge')
    needed = plan.bytes_written * (2 if with_orbax else 1)
    with (
      atomic.folder(out, needed) as partial,
      concurrent.futures.ThreadPoolExecutor(1) as aside,
    ):
      started(plan)
      # Hashing goes beside merging; nothing appears before it agrees.
      hashed = aside.submit(_fingerprints, recipe, folders)
      with sharded.Writer(partial, infos, max_shard_size) as writer:
        streaming.run(
          plan,
          models.checkpoints,
          writer.write,
          workers,
          done,
          models.statistics,
        )
      inputs = hashed.result()
      names = {m: relative(folders[m], out) for m in recipe.models}
      measured = {
        m: relative(path, out) for m, path in recipe.statistics.items()
      }
      final = dataclasses.replace(recipe, inputs=inputs, statistics=measured)
      header = _header(checks.not_portable(recipe, models, plan))
      text = recipes.to_yaml(rename(final, names), header)
      files |= {RECIPE: text, CARD: companions_lib.card(recipe, text, names)}
      for name, content in (files | dict(companions or {})).items():
        _put(partial / name, content)
      with checkpoints.open_checkpoint(partial) as merged:
        if with_orbax:
          from automerge_jax.io import orbax  # takes seconds to import

          orbax.save_checkpoint(partial / ORBAX, merged)
        if lora_rank:
          lora_extraction.extract(lead, merged, lora_rank, partial / LORA)


def _header(reasons: list[str]) -> list[str]:
  if not reasons:
    return ['mergekit 0.1.5 makes the same tensors from this file.']
  return [
    'mergekit 0.1.5 cannot make the same tensors from this file:',
    *(f'- {reason}' for reason in reasons),
  ]


def _put(path: pathlib.Path, content: str | pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(content, pathlib.Path):
    shutil.copyfile(content, path)
  else:
    path.write_text(content, encoding='utf-8')


def _fingerprints(
  recipe: Recipe, folders: Mapping[str, str | pathlib.Path]
) -> dict[str, str]:
  """SHA-256 of each model's weights, compared with what the recipe pins."""
  with concurrent.futures.ThreadPoolExecutor() as pool:
    found = pool.map(
      lambda m: checkpoints.fingerprint(folders[m]), recipe.models
    )
    inputs = dict(zip(recipe.models, found, strict=True))
  for model, pinned in recipe.inputs.items():
    if inputs.get(model, pinned) != pinned:
      raise ValueError(
        f'{folders[model]} has weights with SHA-256 {inputs[model]}, but '
        f'{pinned} is pinned; restore it or remove its line of `inputs`'
      )
  for model, folder in recipe.statistics.items():
    told = measured_folder.about(folder).get('model', inputs[model])
    if told != inputs[model]:
      raise ValueError(
        f'{folder} was measured on weights with SHA-256 {told}, not on those '
        f'of {model} ({inputs[model]}); measure it with experiments.statistics'
      )
  return inputs


def relative(path: str | pathlib.Path, out: pathlib.Path) -> str:
  """A model as seen from `out`, both parts of `BASE+ADAPTER`."""
  # Resolved as `read` resolves them: a link on the way counts where it leads.
  parts = [p for p in checkpoints.split_adapter(path) if p is not None]
  return '+'.join(
    os.path.relpath(part.resolve(), out.resolve()) for part in parts
  )


def read(path: pathlib.Path) -> tuple[Recipe, dict[str, str]]:
  """A recipe file and the paths of its models, relative to the file.

  Raises:
    FileNotFoundError: if a model is not there.
    ValueError: if a model names a revision, which only a hub has.
  """
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is no text in UTF-8 ({error})') from error
  recipe = recipes.from_yaml(text, str(path))
  folders = {}
  for model in recipe.models:
    ref = recipes.model_ref(model)
    if ref.revision or ref.lora_revision:
      raise ValueError(
        f'{path} names the model {model!r} with a revision; models are paths '
        'of checkpoints here: fetch it and give its folder'
      )
    parts = [ref.path] if ref.lora is None else [ref.path, ref.lora]
    found = [(path.parent / part).resolve() for part in parts]
    for part, place in zip(parts, found, strict=True):
      if not place.exists():
        raise FileNotFoundError(
          f'{path} names the model {part!r}, but there is no {place}; models '
          'are given relative to the recipe'
        )
    folders[model] = '+'.join(map(str, found))
  measured = {
    model: str((path.parent / folder).resolve())
    for model, folder in recipe.statistics.items()
  }
  return dataclasses.replace(recipe, statistics=measured), folders
