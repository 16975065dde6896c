"""What a search hands over: merged model, recipes of a front, report."""

import dataclasses
import json
import pathlib
import shutil

from automerge_jax import recipe as recipes
from automerge_jax.choice import Choice
from automerge_jax.io import orbax, safetensors
from automerge_jax.merging import export
from automerge_jax.models import base as models
from automerge_jax.report import model_card, page
from automerge_jax.search import restacked
from automerge_jax.search.job import Job
from automerge_jax.tasks import experts

EXPORTED = 'merged_hf'
ORBAX = 'merged'
FRONT = 'front'


def export_merge(job: Job, made: Choice, workdir: pathlib.Path) -> None:
  """Writes the merged model twice: as a Hugging Face folder and by Orbax.

  The members of a front are written as recipes, from which
  `experiments.merge` makes them.
  """
  heads = experts.head_files(job.folders.values())
  if made.front:
    _write_front(job, made, heads, workdir / FRONT)
  out = workdir / EXPORTED
  if not (out / export.RECIPE).is_file():
    shutil.rmtree(out, ignore_errors=True)
    export.export(made.recipes['merged'], job.folders, out, heads)
  tensors = safetensors.read(out)
  orbax.save(
    workdir / ORBAX,
    models.pack(restacked.keys(job.family, restacked.depth(tensors)), tensors),
    {'recipe': (out / export.RECIPE).read_text()},
  )


def write_report(
  workdir: pathlib.Path, result: dict, points: list[dict], vocabulary: bool
) -> None:
  out = workdir / EXPORTED
  text = (out / export.RECIPE).read_text()
  _write(workdir / 'summary.json', json.dumps(result, indent=2) + '\n')
  _write(workdir / 'report.html', page.render(result, points))
  files = {
    str(path.relative_to(out)): f'{path.stat().st_size:,} bytes'
    for path in sorted(out.rglob('*'))
    if path.is_file() and path.name != 'README.md'
  }
  _write(
    out / 'README.md',
    model_card.render(result, text, files, vocabulary=vocabulary),
  )


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
  for name, file in heads.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / name)
  folder.mkdir(exist_ok=True)
  for row in made.front:
    recipe = made.recipes[row['name']]
    names = {
      model: export.relative(job.folders[model], folder)
      for model in recipe.models
    }
    pinned = {model: job.fingerprints[model] for model in recipe.models}
    recipe = dataclasses.replace(recipe, inputs=pinned)
    number = row['name'].partition(':')[2]
    text = recipes.to_yaml(export.rename(recipe, names), [])
    _write(folder / f'{number}.yaml', text)
