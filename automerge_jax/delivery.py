"""What a search hands over: merged model, recipes of a front, report."""

import dataclasses
import json
import pathlib
import shutil

from automerge_jax import recipe as recipes
from automerge_jax.choice import Choice
from automerge_jax.io import atomic, orbax, safetensors
from automerge_jax.merging import export, registry
from automerge_jax.models import base as models
from automerge_jax.recipe import Recipe
from automerge_jax.report import model_card, page
from automerge_jax.search import restacked
from automerge_jax.search.job import Job
from automerge_jax.statistics import folder as statistics
from automerge_jax.tasks import experts

EXPORTED = 'merged_hf'
ORBAX = 'merged'
FRONT = 'front'
STATISTICS = 'statistics'
SUMMARY = 'summary.json'
REPORT = 'report.html'
CONFIG = 'config.json'


def export_merge(job: Job, made: Choice, workdir: pathlib.Path) -> None:
  """Writes the merged model twice: as a Hugging Face folder and by Orbax.

  The members of a front are written as recipes, from which
  `experiments.merge` makes them. What is there and the same stays; what a
  search with a smaller budget left is replaced, and its report removed. What a
  dynamic method measured for them is kept beside them.
  """
  made = made._replace(
    recipes={
      name: _measured(job, recipe, workdir)
      if name == 'merged' or name.startswith(f'{FRONT}:')
      else recipe
      for name, recipe in made.recipes.items()
    }
  )
  heads = experts.head_files(job.folders.values())
  for name in (FRONT, EXPORTED, ORBAX):
    shutil.rmtree(_beside(workdir / name), ignore_errors=True)
  front, out, stored = (workdir / n for n in (FRONT, EXPORTED, ORBAX))
  if made.front:
    _write_front(job, made, heads, front)
    if _content(_beside(front)) == _content(front):
      shutil.rmtree(_beside(front))
    else:
      _put(workdir, front)
  merged = made.recipes['merged']
  if _stated(out) != _text(merged, job, out):
    export.export(merged, job.folders, _beside(out), heads)
    _put(workdir, out)
  text = (out / export.RECIPE).read_text()
  if orbax.metadata(stored) != {'recipe': text}:
    tensors = safetensors.read(out)
    keys = restacked.keys(job.family, restacked.depth(tensors))
    orbax.save(_beside(stored), models.pack(keys, tensors), {'recipe': text})
    shutil.copyfile(out / CONFIG, _beside(stored) / CONFIG)
    _put(workdir, stored)
  used = {folder for r in made.recipes.values() for folder in _kept(r)}
  for folder in (workdir / STATISTICS).glob('*'):
    if folder not in used:
      shutil.rmtree(folder)


def write_report(
  workdir: pathlib.Path, result: dict, points: list[dict], vocabulary: bool
) -> None:
  """Writes model card, page, and, as a sign that all is done, the summary."""
  out = workdir / EXPORTED
  text = (out / export.RECIPE).read_text()
  files = {
    str(path.relative_to(out)): f'{path.stat().st_size:,} bytes'
    for path in sorted(out.rglob('*'))
    if path.is_file() and path.name != export.CARD
  }
  _write(
    out / export.CARD,
    model_card.render(result, text, files, vocabulary=vocabulary),
  )
  _write(workdir / REPORT, page.render(result, points))
  _write(workdir / SUMMARY, json.dumps(result, indent=2) + '\n')


def _measured(job: Job, recipe: Recipe, workdir: pathlib.Path) -> Recipe:
  """The recipe with what it weights with, in folders."""
  dynamic = registry.get(recipe.merge_method, recipe.semantics).dynamic
  if not dynamic or job.measure is None:
    return recipe
  place = workdir / STATISTICS / job.recipe_hash(recipe)
  folders = {name: place / name for name in job.experts}
  if not all(folder.is_dir() for folder in folders.values()):
    shutil.rmtree(place, ignore_errors=True)
    for name, found in job.measure(recipe).items():
      about = {'model': job.fingerprints[name], 'at': 'scaled by the recipe'}
      statistics.save(folders[name], about, found['fisher'])
  return dataclasses.replace(
    recipe, statistics={name: str(folder) for name, folder in folders.items()}
  )


def _kept(recipe: Recipe) -> set[pathlib.Path]:
  """Folders of a recipe's statistics."""
  return {pathlib.Path(folder).parent for folder in recipe.statistics.values()}


def _beside(out: pathlib.Path) -> pathlib.Path:
  """Where a folder is made before it takes its place."""
  return out.with_name(f'.{out.name}.next')


def _put(workdir: pathlib.Path, out: pathlib.Path) -> None:
  """Puts what was made beside a folder in its place."""
  for name in (SUMMARY, REPORT):  # they tell of what is replaced
    (workdir / name).unlink(missing_ok=True)
  atomic.replace(_beside(out), out)


def _write(path: pathlib.Path, text: str) -> None:
  partial = path.with_name(path.name + '.partial')
  partial.write_text(text)
  partial.replace(path)


def _write_front(
  job: Job,
  made: Choice,
  heads: dict[str, pathlib.Path],
  folder: pathlib.Path,
) -> None:
  """Writes the recipes of a front beside their folder."""
  beside = _beside(folder)
  beside.mkdir()
  for name, file in heads.items():
    (beside / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, beside / name)
  for row in made.front:
    number = row['name'].partition(':')[2]
    text = _text(made.recipes[row['name']], job, folder)
    (beside / f'{number}.yaml').write_text(text)


def _text(recipe: Recipe, job: Job, folder: pathlib.Path) -> str:
  """A recipe as a file in a folder states it, with its inputs pinned."""
  names = {m: export.relative(job.folders[m], folder) for m in recipe.models}
  pinned = dataclasses.replace(
    recipe,
    inputs={model: job.fingerprints[model] for model in recipe.models},
    statistics={
      model: export.relative(path, folder)
      for model, path in recipe.statistics.items()
    },
  )
  return recipes.to_yaml(export.rename(pinned, names), [])


def _stated(folder: pathlib.Path) -> str | None:
  """The recipe that a folder was made from, as `_text`; None without one."""
  path = folder / export.RECIPE
  if not path.is_file():
    return None
  lines = path.read_text().splitlines(keepends=True)
  return ''.join(line for line in lines if not line.startswith('#'))


def _content(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file below a folder."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }
