"""What mergekit 0.1.5 takes, and what it cannot reproduce.

Methods and parameters as its registry lists them.
"""

from automerge_jax.merging import registry
from automerge_jax.recipes import settings
from automerge_jax.recipes.document import (
  Recipe,
  Slice,
  model_ref,
  over_all_layers,
)

_TASK = ('weight', 'density', 'normalize', 'lambda', 'rescale', 'int8_mask')
PARAMETERS: dict[str, tuple[str, ...]] = {
  'arcee_fusion': (),
  'breadcrumbs': (*_TASK, 'gamma'),
  'breadcrumbs_ties': (*_TASK, 'gamma'),
  'dare_linear': _TASK,
  'dare_ties': _TASK,
  'della': (*_TASK, 'epsilon'),
  'della_linear': (*_TASK, 'epsilon'),
  'karcher': ('max_iter', 'tol'),
  'linear': ('weight', 'normalize'),
  'model_stock': ('filter_wise',),
  'multislerp': ('weight', 'normalize_weights', 'eps'),
  'nearswap': ('t',),
  'nuslerp': ('weight', 'nuslerp_row_wise', 'nuslerp_flatten'),
  'passthrough': ('scale',),
  'ram': ('epsilon',),
  'ramplus_tl': ('r', 'alpha', 'epsilon'),
  'sce': ('select_topk', 'int8_mask'),
  'slerp': ('t',),
  'task_arithmetic': _TASK,
  'ties': _TASK,
}
# What mergekit takes or writes itself where it changes no tensor.
_NO_EFFECT = {
  'slerp': ('normalize', 'weight'),
  'task_arithmetic': ('density', 'rescale'),
}
_NEEDS_BASE = (
  'arcee_fusion model_stock nearswap sce ram ramplus_tl slerp task_arithmetic '
  'ties dare_linear dare_ties breadcrumbs breadcrumbs_ties della della_linear'
).split()
_TAKES_BASE = (*_NEEDS_BASE, 'multislerp', 'nuslerp')
_RANDOM = ('dare_linear', 'dare_ties', 'della', 'della_linear')


def has_no_effect(method: str, parameter: str) -> bool:
  """Whether mergekit's files may state it though it changes no tensor."""
  return parameter == 'int8_mask' or parameter in _NO_EFFECT.get(method, ())


def takers(parameter: str) -> list[str]:
  """mergekit's methods that take a parameter."""
  return sorted(m for m, names in PARAMETERS.items() if parameter in names)


def wants_base_among_sources(method: str) -> bool:
  """Whether mergekit refuses a slice whose sources lack the base."""
  return method in _TAKES_BASE


def portable(recipe: Recipe) -> list[str]:
  """Why mergekit 0.1.5 cannot make our tensors from a recipe; empty if it can.

  Of the recipe alone: the checkpoints may still hold what mergekit does not
  know, such as an architecture.
  """
  unknown = [name for name in recipe.methods if name not in PARAMETERS]
  if unknown:
    return [f'it has no method {name!r}' for name in unknown]
  reasons = _extensions(recipe)
  for name in recipe.methods:
    if registry.get(name, recipe.semantics).semantics != 'mergekit-0.1.5':
      reasons.append(f'{name} here means the {recipe.semantics}, not its own')
  stated = _stated(recipe)
  for parameter in sorted(stated):
    if not any(
      parameter in PARAMETERS[name] or has_no_effect(name, parameter)
      for name in recipe.methods
    ):
      names = ' and '.join(recipe.methods)
      reasons.append(f'its {names} has no parameter {parameter!r}')
  if any(d < 1 for d in stated.get('density', ())):
    reasons += [
      f'the masks of {name} are random and drawn otherwise'
      for name in recipe.methods
      if name in _RANDOM
    ]
  for module in recipe.stacks:
    first, last = (len(module.slices[i].sources) for i in (0, -1))
    if last > first and recipe.merge_method in _TAKES_BASE:
      reasons.append('it loses sources of a last slice that has more of them')
    for part in module.slices:
      for leaf in part.leaves:
        name = leaf.merge_method or recipe.merge_method
        if name in _NEEDS_BASE and not (leaf.base_model or recipe.base_model):
          reasons.append(f'its {name} needs a `base_model`')
        if _lacks_base(recipe, leaf) and not over_all_layers(module):
          reasons.append('the base is none of the sources of a slice')
  if recipe.dtype not in (None, 'float32'):
    reasons.append(f'it computes in {recipe.dtype}, here it is float32')
  if len(recipe.modules) > 1:
    reasons.append('its modules are named after its list of architectures')
  for model in recipe.models:
    ref = model_ref(model)
    if ref.path.endswith('.gguf'):
      reasons.append(f'it does not read GGUF files: {ref.path}')
  return list(dict.fromkeys(reasons))


def is_pair(method: str, part: Slice) -> bool:
  """Whether slerp has its two models without the base."""
  return method == 'slerp' and len(part.sources) == 2


def _extensions(recipe: Recipe) -> list[str]:
  """What its slices have no word for."""
  slices = [part for module in recipe.stacks for part in module.slices]
  reasons = []
  if any(part.merge_method for one in slices for part in (one, *one.parts)):
    reasons.append('it has one `merge_method` for all slices')
  if any(part.parts for part in slices):
    reasons.append('its slices have no `parts`')
  if any(part.scales for one in slices for part in (one, *one.parts)):
    reasons.append('its slices have no `scales`')
  return reasons


def _stated(recipe: Recipe) -> dict[str, list[float]]:
  """Every number stated, by parameter."""
  levels = [recipe.parameters]
  for module in recipe.stacks:
    levels.append(module.parameters)
    for part in module.slices:
      for one in (part, *part.parts):
        levels += [one.parameters, *(s.parameters for s in one.sources)]
  found: dict[str, list[float]] = {}
  for level in levels:
    for parameter, setting in level.items():
      found.setdefault(parameter, []).extend(settings.values(setting))
  return found


def _lacks_base(recipe: Recipe, part: Slice) -> bool:
  """Whether the base is no source and has no obvious layers."""
  base = part.base_model or recipe.base_model
  method = part.merge_method or recipe.merge_method
  return (
    wants_base_among_sources(method)
    and base is not None
    and all(s.model != base for s in part.sources)
    and (len({s.layers for s in part.sources}) > 1 or is_pair(method, part))
  )
