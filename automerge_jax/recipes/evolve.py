"""mergekit-evolve's files: a search space over recipes, and its tasks."""

import dataclasses
from collections.abc import Callable
from typing import Any

from automerge_jax.recipes import nodes, settings
from automerge_jax.recipes.nodes import Node
from automerge_jax.recipes.references import reference

PARAMETERS = {
  'linear': ('weight',),
  'task_arithmetic': ('weight',),
  'ties': ('weight', 'density'),
  'dare_ties': ('weight', 'density'),
  'slerp': ('t',),
}
_NEED_BASE = ('task_arithmetic', 'ties', 'dare_ties')
_NORMALIZE = ('linear', 'ties', 'dare_ties')  # where the file is silent


@dataclasses.dataclass(frozen=True)
class Genome:
  """What is searched.

  Attributes:
    models: K models, each with genes.
    merge_method: of all recipes.
    base_model: of all recipes; SLERP takes a base of its own for each group.
    tokenizer_source: of all recipes.
    layer_granularity: layers of a group; below 1, all layers are one.
    normalize: as in recipes; None: as mergekit-evolve chooses for the method.
    allow_negative_weights: else the absolute value of a weight counts.
    filters: parts of tensors' names that have genes of their own.
    smooth: the groups' values are gradients, not steps.
  """

  models: tuple[str, ...]
  merge_method: str
  base_model: str | None = None
  tokenizer_source: str | None = None
  layer_granularity: int = 0
  normalize: bool | None = None
  allow_negative_weights: bool = False
  filters: tuple[str, ...] = ()
  smooth: bool = False

  @property
  def parameters(self) -> tuple[str, ...]:
    """Names of the P parameters that genes set."""
    return PARAMETERS[self.merge_method]

  @property
  def normalized(self) -> bool:
    """Whether the recipes state `normalize`."""
    if self.normalize is None:
      return self.merge_method in _NORMALIZE
    return self.normalize


@dataclasses.dataclass(frozen=True)
class Task:
  """A task of lm-evaluation-harness and its weight in the score."""

  name: str
  weight: float = 1.0
  metric: str = 'acc,none'


@dataclasses.dataclass(frozen=True)
class Evolution:
  """A mergekit-evolve file; the settings of the evaluation as in the file."""

  genome: Genome
  tasks: tuple[Task, ...]
  limit: int | None = None
  num_fewshot: int | None = None
  shuffle: bool = False
  random_init: bool = False
  apply_chat_template: bool = True
  fewshot_as_multiturn: bool = True


def from_yaml(text: str, where: str = 'evolution') -> Evolution:
  """Reads a mergekit-evolve file, strictly.

  Raises:
    ValueError: naming file, line and key or value that is wrong, what was
      expected and the nearest valid name.
  """
  found = nodes.documents(text, where)
  if len(found) != 1:
    raise ValueError(f'{where}: {len(found)} YAML documents; expected one')
  (top,) = found
  if top.is_mapping() and 'merge_method' in top.fields():
    top.fail('it is a recipe, no search space; expected `genome` and `tasks`')
  fields = top.fields(f.name for f in dataclasses.fields(Evolution))
  for key in ('genome', 'tasks'):
    if key not in fields:
      top.fail(f'`{key}` is missing')
  stated: dict[str, Any] = {
    key: read(fields[key]) for key, read in _EVALUATION.items() if key in fields
  }
  tasks = tuple(_task(node) for node in fields['tasks'].items())
  if not tasks:
    fields['tasks'].fail('the list is empty')
  return Evolution(_genome(fields['genome']), tasks, **stated)


def _genome(node: Node) -> Genome:
  fields = node.fields(f.name for f in dataclasses.fields(Genome))
  for key in ('models', 'merge_method'):
    if key not in fields:
      node.fail(f'`{key}` is missing')
  method = fields['merge_method'].one_of(PARAMETERS)
  models = tuple(reference(m) for m in fields['models'].items())
  least = 2 if method == 'slerp' else 1
  if len(models) < least or len(set(models)) < len(models):
    fields['models'].fail(
      f'{list(models)}; {method} expects {least} or more different models'
    )
  stated: dict[str, Any] = {
    key: read(fields[key]) for key, read in _GENOME.items() if key in fields
  }
  if method in _NEED_BASE and 'base_model' not in stated:
    node.fail(f'{method} needs a `base_model`')
  for key in ('filters', 'smooth'):
    if method == 'slerp' and stated.get(key):
      fields[key].fail('it is not possible with slerp')
  return Genome(models, method, **stated)


def _task(node: Node) -> Task:
  if not node.is_mapping():
    return Task(node.text())
  fields = node.fields(f.name for f in dataclasses.fields(Task))
  if 'name' not in fields:
    node.fail('`name` is missing')
  stated: dict[str, Any] = {'name': fields['name'].text()}
  if 'weight' in fields:
    stated['weight'] = settings.number(fields['weight'])
  if 'metric' in fields:
    stated['metric'] = fields['metric'].text()
  return Task(**stated)


def _texts(node: Node) -> tuple[str, ...]:
  return tuple(item.text() for item in node.items())


_GENOME: dict[str, Callable[[Node], Any]] = {
  'base_model': reference,
  'tokenizer_source': Node.text,
  'layer_granularity': Node.integer,
  'normalize': Node.flag,
  'allow_negative_weights': Node.flag,
  'filters': _texts,
  'smooth': Node.flag,
}
_EVALUATION: dict[str, Callable[[Node], Any]] = {
  'limit': Node.integer,
  'num_fewshot': Node.integer,
  'shuffle': Node.flag,
  'random_init': Node.flag,
  'apply_chat_template': Node.flag,
  'fewshot_as_multiturn': Node.flag,
}
