"""Merges checkpoints as a recipe says, or tells what it would do.

  python -m experiments.merge --recipe=recipe.yaml --out=DIR
  python -m experiments.merge --recipe=recipe.yaml --dry_run

The recipe is mergekit's YAML; models are folders or files relative to it:
safetensors, Orbax, GGUF, or BASE+ADAPTER with a LoRA adapter. DIR becomes a
Hugging Face folder with config, tokenizer and a recipe that makes the same
weights again; the heads of experts come along.
"""

import pathlib
import sys

import tqdm
from absl import app, flags

from automerge_jax.merging import companions, explain, export, plan, sources
from automerge_jax.tasks import experts
from experiments import startup

RECIPE = flags.DEFINE_string('recipe', None, 'A recipe file.', required=True)
OUT = flags.DEFINE_string('out', None, 'The folder to make; must not exist.')
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Only print the plan.')
SHARD = flags.DEFINE_string('max_shard_size', '5GB', 'Most bytes of a file.')
ORBAX = flags.DEFINE_bool('orbax', False, 'Also write OUT/orbax.')
LORA_RANK = flags.DEFINE_integer(
  'lora_rank',
  0,
  'Also write OUT/lora, an adapter of this rank for the base.',
  lower_bound=0,
)
WORKERS = flags.DEFINE_integer(
  'workers', None, 'Threads; default: processors.', lower_bound=1
)


def dry_run(recipe_file: str | pathlib.Path) -> str:
  """The plan of a recipe file in words; nothing is merged or written."""
  recipe, folders = export.read(pathlib.Path(recipe_file))
  with sources.opened(recipe, folders) as models:
    found = plan.make(recipe, models.checkpoints)
    companions.files(recipe, models, found)  # fails where a merge would
    return explain.text(recipe, models, found)


def run(
  recipe_file: str | pathlib.Path, out: str | pathlib.Path, **options
) -> None:
  """Merges as a recipe file says, into a new folder.

  Heads are those of the recipe's models, and those beside the recipe.

  Args:
    recipe_file: the recipe.
    out: the folder to make.
    **options: see `export.export`.

  Raises:
    FileExistsError: if `out` exists.
    FileNotFoundError: if the recipe or one of its models is missing.
    ValueError: if the recipe is wrong, or an input not the one it pins.
  """
  path = pathlib.Path(recipe_file)
  recipe, folders = export.read(path)
  for warning in recipe.warnings:
    print(f'warning: {warning}', file=sys.stderr)
  with tqdm.tqdm(unit='B', unit_scale=True, disable=None) as bar:

    def advance(step: plan.Step) -> None:
      with bar.get_lock():  # several threads count
        bar.update(step.info.nbytes)

    export.export(
      recipe,
      folders,
      pathlib.Path(out),
      experts.head_files([*folders.values(), path.parent]),
      started=lambda found: bar.reset(found.bytes_written),
      done=advance,
      **options,
    )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  out = None if DRY_RUN.value else OUT.value
  if not DRY_RUN.value and out is None:
    raise app.UsageError('give --out=DIR, or --dry_run')
  startup.prepare()
  try:
    if out is None:
      print(dry_run(RECIPE.value))
      return
    run(
      RECIPE.value,
      out,
      max_shard_size=SHARD.value,
      with_orbax=ORBAX.value,
      lora_rank=LORA_RANK.value,
      workers=WORKERS.value,
    )
  except (OSError, ValueError) as error:
    sys.exit(f'merge: {error}')
  except KeyboardInterrupt:
    print('merge: interrupted; nothing half-done is left', file=sys.stderr)
    sys.exit(130)  # as shells count it
  print(f'Merged model: {out}')


if __name__ == '__main__':
  app.run(main)
