"""What a user chooses of a search."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from automerge_jax import trees
from automerge_jax.merging import calibration
from automerge_jax.statistics.dynamic import ESTIMATES, NORMALISATIONS

SPACES = (
  'modelwise',
  'layerwise',
  'depthwise',
  'pruning',
  'both',
  'evolve',
  'published_layerwise',
  'published_depthwise',
)
SCHEDULES = ('halving', 'hyperband', 'asynchronous')
ACQUISITIONS = ('ucb', 'ei', 'log_ei')
CLIMBED = ('', 'accuracy', 'log_likelihood', 'margin', 'experts')
DESIGNS = ('latin', 'uniform')
OPTIMIZERS = (
  'mixed',
  'cma_es',
  'cma_es_large',
  'gp_bo',
  'bayes',
  'nsga2',
  'random',
)


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
    method: merge method by registry name; several, with commas between, where
      the space lets each group of layers choose. `depthwise` takes none.
    semantics: whose definition of it, 'mergekit-0.1.5' or 'paper'.
    space: one of `SPACES`.
    layers_per_group: layers that share coefficients (layer-wise), or the first
      layer of every group, from 0.
    components: how a layer is divided: 'coarse', 'fine', 'own', 'tensor', or
      patterns as `NAME=FILTER,...,NAME=`, see `cells.layered`.
    ranges: other bounds than the method's, by parameter.
    objective: 'accuracy' or 'log_likelihood': what objectives are measured in,
      and, averaged over tasks, what gradient steps climb.
    optimizer: one of `OPTIMIZERS`.
    std: first step of CMA-ES and of the mixed default, as a share of each
      range.
    population: P.
    candidates: most candidates, start points included; 0: as the budget pays.
    budget: most that is spent, see `search/budget.py`; empty: no bound.
    batch_size: candidates that are vmapped together, None for one at a time.
    rungs: items a task at each rung, ascending.
    schedule: one of `SCHEDULES`, see `search/fidelity.py`.
    eta: one in so many candidates of a rung reaches the next.
    promote: instead of `eta`, candidates of a generation that reach each
      further rung, where the schedule is 'halving'; empty: by `eta`.
    race: error rate of the test that stops a candidate inside a rung, see
      `search/racing.py`; 0: no race.
    looks: times that it looks within a rung.
    screen: proposals of the optimizer for each that is scored; the surrogate
      keeps the best. 1: no surrogate.
    acquisition: by which it keeps them, one of `ACQUISITIONS`; and what the
      optimizer 'bayes' maximises, 'ei' or 'ucb'.
    gradient_steps: gradient steps of a climb; 0 for none.
    gradient_rate: their learning rate, as a share of each range.
    gradient_objective: what they climb, one of `CLIMBED`; empty: `objective`.
    gradient_every: generations of the optimizer between two climbs; 0: one
      climb only, before the optimizer starts.
    gradient_validation: share of the search items that gradients do not see,
      by which the best step of a climb is found.
    gradient_shrinkage: pull of each coefficient to the mean of its layer.
    minibatches: into which the search items are dealt for gradient steps.
    finalists: best-scored candidates that are compared on select items.
    select: select items a task.
    heldout: held-out items a task.
    weights: grid of tuned task arithmetic, and of the start points.
    ties_scales: grid of `lambda` of tuned TIES; empty leaves TIES out.
    ties_densities: grid of its density.
    tsv_scales: grid of `lambda` of tuned TSV-Merge, and of the start points of
      a search of its weights; empty leaves it out.
    space_options: what else the space can be told, by name.
    explore: candidates drawn from the whole space, beside the start points.
    explore_design: how: evenly ('latin'), or independently ('uniform').
    hand_made_starts: whether experts, their average and the grid of weights,
      or what a space has of its own, are start points.
    fisher_examples: search items a task on which a dynamic method measures
      Fisher information, see `merging/calibration.py`.
    fisher_estimate: 'exact', 'sampled' or 'label', see `statistics/dynamic.py`.
    fisher_normalisation: 'none', 'global_norm' or 'trace'.
    fisher_at: whose information counts, that of each 'candidate' or, once and
      for all, that of the 'expert'.
    designs: recipe files, or folders of exports, to start from as well.
    objectives: see `search/objectives.py`; empty: the mean over tasks. With
      more than one the result is a front, of which one member is picked.
    constraints: how far a task may fall below the reference, by task.
    reference: the model that constraints are relative to.
    task_weights: of tasks in the mean; 1 where nothing is stated.
    preference: weights of the objectives, in their order, for the pick; empty:
      the knee of the front.
    derived: experts that are merges themselves, so no parents of baselines.
    dtype: in which models compute: 'float32', 'bfloat16' or 'float16'.
    denoise: whether a single accuracy is drawn to log-likelihoods before
      candidates are ranked, see `search/estimates.py`.
    gate: whether candidates are refused that are far beyond their parents on
      plain sentences, see `search/sanity.py`; else only what is not finite.
    force_test_split: whether test items may be searched on after all.
  """

  tasks: tuple[str, ...]
  base: pathlib.Path
  experts: Mapping[str, pathlib.Path]
  seed: int
  method: str
  semantics: str
  space: str
  layers_per_group: int | tuple[int, ...]
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
  space_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  designs: tuple[str, ...] = ()
  objectives: tuple[str, ...] = ()
  constraints: Mapping[str, float] = dataclasses.field(default_factory=dict)
  reference: str = 'base'
  task_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
  preference: tuple[float, ...] = ()
  derived: tuple[str, ...] = ()
  dtype: str = 'float32'
  gate: bool = True
  denoise: bool = True
  force_test_split: bool = False
  budget: str = ''
  tsv_scales: tuple[float, ...] = ()
  schedule: str = 'halving'
  eta: int = 4
  race: float = 0.0
  looks: int = 4
  screen: int = 1
  acquisition: str = 'ucb'
  gradient_objective: str = ''
  gradient_every: int = 0
  gradient_validation: float = 0.0
  gradient_shrinkage: float = 0.0
  explore: int = 0
  explore_design: str = 'latin'
  hand_made_starts: bool = True
  fisher_examples: int = 30
  fisher_estimate: str = 'exact'
  fisher_normalisation: str = 'none'
  fisher_at: str = 'candidate'

  def __post_init__(self) -> None:
    choices = {
      'semantics': ('mergekit-0.1.5', 'paper'),
      'space': SPACES,
      'objective': ('accuracy', 'log_likelihood'),
      'optimizer': OPTIMIZERS,
      'schedule': SCHEDULES,
      'acquisition': ACQUISITIONS,
      'gradient_objective': CLIMBED,
      'explore_design': DESIGNS,
      'dtype': ('float32', 'bfloat16', 'float16'),
      'fisher_estimate': ESTIMATES,
      'fisher_normalisation': NORMALISATIONS,
      'fisher_at': calibration.PLACES,
    }
    for name, valid in choices.items():
      if getattr(self, name) not in valid:
        raise ValueError(
          f'{name} is {getattr(self, name)!r}'
          + trees.nearest(str(getattr(self, name)), valid)
        )
    if self.reference != 'base' and self.reference not in self.experts:
      raise ValueError(
        f'reference is {self.reference!r}; expected base or one of '
        f'{sorted(self.experts)}'
      )
    if self.preference and len(self.preference) != len(self.objectives):
      raise ValueError(
        f'preference {self.preference} has {len(self.preference)} weights for '
        f'{len(self.objectives)} objectives {self.objectives}'
      )
    if self.promote and len(self.promote) != len(self.rungs) - 1:
      raise ValueError(
        f'{len(self.rungs)} rungs {self.rungs} need {len(self.rungs) - 1} '
        f'numbers of promoted candidates, got promote={self.promote}'
      )
    if self.optimizer == 'bayes' and self.acquisition == 'log_ei':
      raise ValueError(
        "acquisition is 'log_ei', which the optimizer 'bayes' does not have; "
        "expected 'ei' or 'ucb'"
      )
    if not self.hand_made_starts and self.explore < 1:
      raise ValueError(
        f'explore is {self.explore} without hand_made_starts, so there is '
        'nothing to start from; expected at least 1'
      )
    if not self.tasks or not self.experts:
      raise ValueError(
        f'a search needs tasks and experts, got {len(self.tasks)} tasks and '
        f'{len(self.experts)} experts'
      )

  @property
  def methods(self) -> tuple[str, ...]:
    """Names of the merge methods."""
    return tuple(m.strip() for m in self.method.split(',') if m.strip())
