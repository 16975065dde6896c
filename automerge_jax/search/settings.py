"""What a user chooses of a search."""

import dataclasses
import pathlib
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Settings:
  """A whole search job; configs/ holds documented values.

  Attributes:
    tasks: what is to be done well, as `definitions.read` takes it.
    base: checkpoint of the base, a folder with config and tokenizer.
    experts: checkpoint of each expert by the name that recipes use. An expert
      named like a task is that task's own; the other tasks' own experts are
      those that do best on their select items.
    seed: of everything random.
    method: merge method, by registry name.
    semantics: whose definition of it, 'mergekit-0.1.5' or 'paper'.
    space: 'layerwise' or 'modelwise'.
    layers_per_group: layers that share coefficients (layer-wise).
    components: how a layer is divided, 'coarse' or 'fine'.
    ranges: other bounds than the method's, by parameter.
    objective: 'accuracy' or 'log_likelihood', averaged over tasks.
    optimizer: 'cma_es' or 'random'.
    std: first step of CMA-ES, as a share of each range.
    population: P.
    candidates: budget of candidates, start points included.
    batch_size: candidates that are vmapped together, None for one at a time.
    rungs: items a task at each rung, ascending.
    promote: candidates of a generation that reach each further rung.
    gradient_steps: gradient steps before the optimizer starts; 0 for none.
    gradient_rate: their learning rate, as a share of each range.
    minibatches: into which the search items are dealt for them.
    finalists: best-scored candidates that are compared on select items.
    select: select items a task.
    heldout: held-out items a task.
    weights: grid of tuned task arithmetic, and of the start points.
    ties_scales: grid of `lambda` of tuned TIES; empty leaves TIES out.
    ties_densities: grid of its density.
    dtype: in which models compute: 'float32', 'bfloat16' or 'float16'.
    force_test_split: whether test items may be searched on after all.
  """

  tasks: tuple[str, ...]
  base: pathlib.Path
  experts: Mapping[str, pathlib.Path]
  seed: int
  method: str
  semantics: str
  space: str
  layers_per_group: int
  components: str
  ranges: Mapping[str, tuple[float, float]]
  objective: str
  optimizer: str
  std: float
  population: int
  candidates: int
  batch_size: int | None
  rungs: tuple[int, ...]
  promote: tuple[int, ...]
  gradient_steps: int
  gradient_rate: float
  minibatches: int
  finalists: int
  select: int
  heldout: int
  weights: tuple[float, ...]
  ties_scales: tuple[float, ...]
  ties_densities: tuple[float, ...]
  dtype: str = 'float32'
  force_test_split: bool = False

  def __post_init__(self) -> None:
    choices = {
      'semantics': ('mergekit-0.1.5', 'paper'),
      'space': ('layerwise', 'modelwise'),
      'objective': ('accuracy', 'log_likelihood'),
      'optimizer': ('cma_es', 'random'),
      'dtype': ('float32', 'bfloat16', 'float16'),
    }
    for name, valid in choices.items():
      if getattr(self, name) not in valid:
        raise ValueError(
          f'{name} is {getattr(self, name)!r}; expected one of {valid}'
        )
    if len(self.promote) != len(self.rungs) - 1:
      raise ValueError(
        f'{len(self.rungs)} rungs {self.rungs} need {len(self.rungs) - 1} '
        f'numbers of promoted candidates, got promote={self.promote}'
      )
    if not self.tasks or not self.experts:
      raise ValueError(
        f'a search needs tasks and experts, got {len(self.tasks)} tasks and '
        f'{len(self.experts)} experts'
      )
