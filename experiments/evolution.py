"""From a mergekit-evolve file to the settings of a search, see docs/evolve.md.

The file says what is searched: models, method, genes, tasks. A config says how:
budgets, rungs, optimizer, baselines.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from automerge_jax import recipe as recipes
from automerge_jax.io import checkpoints, tokenizers
from automerge_jax.merging import registry
from automerge_jax.recipes import evolve
from automerge_jax.recipes.evolve import Evolution, Genome
from automerge_jax.search.job import BASE
from automerge_jax.search.settings import Settings
from configs import own_models
from experiments import choices, evolution_tasks

# What the file decides; a config may not say it too.
_ABOUT = ('base', 'experts', 'tasks')
_DECIDED = (
  'method',
  'semantics',
  'space',
  'space_options',
  'layers_per_group',
  'ranges',
  'designs',
  'task_weights',
)


def settings(
  path: pathlib.Path,
  config,
  workdir: pathlib.Path,
  *,
  tell: Callable[[str], None],
  stated: Collection[str] = (),
) -> Settings:
  """Settings of the search that a mergekit-evolve file and a config describe.

  Tasks of lm_eval are written as task files into `workdir`/tasks.

  Args:
    path: the mergekit-evolve file. What it names is looked for in its folder,
      then in the working directory.
    config: how to search, such as configs/own_models.py.
    workdir: of the search.
    tell: is told, a line at a time, of what is done in another way than by
      mergekit-evolve.
    stated: entries of the config that were given on the command line.

  Raises:
    FileNotFoundError: if a model is missing.
    ImportError: if the tasks need lm_eval, and there is none.
    ValueError: if file or config is wrong, or both decide the same.
  """
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path} is not UTF-8: {error}; save it so') from error
  evolution = evolve.from_yaml(text, str(path))
  _check_config(path, config, stated)
  genome, base, experts = _models(evolution.genome, path)
  _check_tokenizers(evolution.genome, path, {BASE: base, **experts}, tell)
  if evolution.genome.base_model is None:
    tell(
      f'there is no base_model: {genome.models[0]} stands for it in the '
      'baselines that need one, and gives config and tokenizer'
    )
  tasks = evolution_tasks.read(
    evolution,
    path,
    base,
    workdir / 'tasks',
    tell,
    force_test_split=config.search.force_test_split,
  )
  how = choices.options(config)
  if not how['objectives']:  # the file's metrics, whatever gradients climb
    how['objectives'] = ('mean:accuracy',)
  if evolution.limit is not None:
    how['rungs'], how['promote'] = _limited(
      path, evolution.limit, how['rungs'], how['promote']
    )
  if evolution.shuffle:
    tell(
      'shuffle: items are always shuffled, stratified by answer, by a fixed '
      'seed: all candidates get the same'
    )
  return Settings(
    tasks=tasks.references,
    base=base,
    experts=experts,
    seed=config.seed,
    **how
    | {
      'method': genome.merge_method,
      'semantics': registry.SEMANTICS[0],
      'space': 'evolve',
      'space_options': _options(genome, evolution),
      'task_weights': tasks.weights,
    },
  )


def _check_config(path: pathlib.Path, config, stated: Collection[str]) -> None:
  """Raises ValueError if the config says what the file says."""
  if 'then' in config:
    raise ValueError(
      f'the config describes two searches in turn; {path} is one search: give '
      'a config without a part `then`'
    )
  silent = own_models.get_config()
  for key in _ABOUT:
    if config[key]:
      raise ValueError(
        f'the config says {key} = {config[key]!r}, and {path} says it too; '
        f'leave one out: a config without {key} is configs/own_models.py'
      )
  says, usual = config.search.to_dict(), silent.search.to_dict()
  for key in _DECIDED:
    found = says[key]
    if found != usual[key] or f'search.{key}' in stated:
      raise ValueError(
        f'the config says search.{key} = {found!r}, and {path} decides what is '
        'searched; leave one out'
      )


def _models(
  genome: Genome, path: pathlib.Path
) -> tuple[Genome, pathlib.Path, dict[str, pathlib.Path]]:
  """The genome with models by their names here, the base, and the experts."""
  every = [m for m in (genome.base_model, *genome.models) if m is not None]
  places = {model: _place(model, path) for model in every}
  base = places[every[0]]
  if checkpoints.split_adapter(base)[1] is not None:
    raise ValueError(
      f'{path}: the base {every[0]!r} has an adapter; a base must be one '
      'folder with config and tokenizer: make it with experiments.merge, from '
      f'a recipe with `merge_method: passthrough` and only {every[0]}'
    )
  where = [_resolved(places[model]) for model in genome.models]
  for i, place in enumerate(where):
    if place in where[:i]:
      twice = genome.models[where.index(place)], genome.models[i]
      raise ValueError(f'{path}: genome.models: {twice} are one model, {place}')
  models = list(genome.models)
  if registry.get(genome.merge_method).stack == 'deltas':
    # A base among the models has no delta: its genes change nothing.
    models = [m for m in models if _resolved(places[m]) != _resolved(base)]
    if not models:
      raise ValueError(
        f'{path}: genome.models: the only model is the base; add another'
      )
  experts = choices.named([places[model] for model in models])
  renamed = dataclasses.replace(
    genome,
    models=tuple(experts),
    base_model=None if genome.base_model is None else BASE,
    tokenizer_source=None,  # with one vocabulary it changes no tensor
  )
  return renamed, pathlib.Path(base), experts


def _place(model: str, path: pathlib.Path) -> str:
  """Where a model is: in the file's folder, or in the working directory."""
  ref = recipes.model_ref(model)
  if ref.revision or ref.lora_revision:
    raise ValueError(
      f'{path} names the model {model!r} with a revision; models are folders '
      'here: fetch that revision and give its folder'
    )
  found = []
  for part in (ref.path, ref.lora):
    if part is None:
      continue
    tried = [path.parent / part, pathlib.Path(part)]
    there = [place for place in tried if place.exists()]
    if not there:
      raise FileNotFoundError(
        f'{path} names the model {part!r}, and there is no folder '
        + ' or '.join(dict.fromkeys(map(str, tried)))
        + '; nothing is downloaded: fetch it first (for example with '
        f'`hf download {part} --local-dir {tried[0]}`) or name its folder'
      )
    found.append(str(there[0]))
  return '+'.join(found)


def _resolved(place: str) -> str:
  parts = [p for p in checkpoints.split_adapter(place) if p is not None]
  return '+'.join(str(part.resolve()) for part in parts)


def _check_tokenizers(
  genome: Genome,
  path: pathlib.Path,
  folders: Mapping[str, pathlib.Path],
  tell: Callable[[str], None],
) -> None:
  """Raises ValueError if the merge would need another vocabulary."""
  source = genome.tokenizer_source
  if source is None:
    return
  if source not in ('base', 'union', genome.base_model, *genome.models):
    raise ValueError(
      f'{path}: genome.tokenizer_source is {source!r}; expected base, union or '
      'one of the models'
    )
  found = {}
  for name, folder in folders.items():
    text = tokenizers.read(checkpoints.split_adapter(folder)[0])
    if text is not None:
      found[name] = tokenizers.vocabulary(text)
  for name, vocabulary in found.items():
    first = next(iter(found))
    differ = vocabulary.items() ^ found[first].items()
    if differ:
      raise ValueError(
        f'{path}: genome.tokenizer_source: {source}: the vocabularies of '
        f'{folders[first]} and {folders[name]} differ, in '
        f'{sorted(token for token, _ in differ)[:4]}; candidates are scored '
        'with one vocabulary: bring the models to it first, by a recipe with '
        'this tokenizer_source for each (experiments.merge)'
      )
  tell(
    f'tokenizer_source: {source} changes nothing, for all vocabularies are '
    "equal; tokenizer files are the base's"
  )


def _limited(
  path: pathlib.Path, limit: int, rungs: Sequence[int], promote: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Rungs scaled so that the last is `limit`, each larger than the one below.

  Lower rungs that fall together become one. Without numbers of promoted
  candidates there are none of the result either.
  """
  if limit < 1:
    raise ValueError(f'{path}: limit is {limit}; expected 1 or more items')
  kept: list[tuple[int, int]] = []
  reaches = promote or (0,) * (len(rungs) - 1)
  for rung, reach in zip(rungs[:-1], reaches, strict=True):
    size = max(1, round(rung * limit / rungs[-1]))
    if size < limit and (not kept or size > kept[-1][0]):
      kept.append((size, reach))
  sizes = tuple(size for size, _ in kept)
  return (*sizes, limit), tuple(reach for _, reach in kept if promote)


def _options(genome: Genome, evolution: Evolution) -> dict[str, Any]:
  """Options of the space `evolve`: the genome as plain values."""
  options = dataclasses.asdict(genome)
  return options | ({'random_init': True} if evolution.random_init else {})
