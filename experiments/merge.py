"""Rebuilds a merged model from its recipe, bit for bit.

  python -m experiments.merge --recipe=recipe.yaml --out=DIR

DIR becomes a Hugging Face folder, with the heads of its experts beside the
merged trunk. The recipe names its models by folders relative to itself.
"""

import pathlib
import sys

from absl import app, flags

from automerge_jax.merging import export
from automerge_jax.tasks import experts
from experiments import startup

RECIPE = flags.DEFINE_string('recipe', None, 'A recipe file.', required=True)
OUT = flags.DEFINE_string(
  'out', None, 'The folder to make; must not exist yet.', required=True
)


def run(recipe_file: str | pathlib.Path, out: str | pathlib.Path) -> None:
  """Merges as a recipe file says, into a new folder.

  Raises:
    FileExistsError: if `out` exists.
    FileNotFoundError: if the recipe or one of its models is missing.
    ValueError: if the recipe is wrong, or an input not the one it pins.
  """
  recipe, folders = export.read(pathlib.Path(recipe_file))
  heads = experts.head_files(folders.values())
  export.export(recipe, folders, pathlib.Path(out), heads)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  try:
    run(RECIPE.value, OUT.value)
  except (OSError, ValueError) as error:
    sys.exit(f'merge: {error}')
  print(f'Merged model: {OUT.value}')


if __name__ == '__main__':
  app.run(main)
