"""What is done to a tensor, written in one way only.

Two recipes that differ in words but not in effect come to the same form: sums
of stored tensors are collected to one coefficient each, what has weight 0 is
left out, and numbers that make no difference where they stand are dropped.
Equal up to rounding counts as equal: base + 1.0 (expert - base) is the expert.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from automerge_jax.merging.outputs import Output

Place = tuple[str, str]  # (model, stored name)
Terms = dict[Place, float]

_SUMS = frozenset({'linear', 'task_arithmetic', 'passthrough'})
_SIGNS = frozenset({'ties', 'dare_ties', 'breadcrumbs_ties', 'della'})
_SPARSE = _SIGNS | {'dare_linear', 'breadcrumbs', 'della_linear'}
_RANDOM = frozenset({'dare_linear', 'dare_ties', 'della', 'della_linear'})
# θ₀ + λ times something finite.
_STEPS = frozenset({'consensus', 'fisher', 'iso_c', 'iso_cts', 'magmax'}) | {
  *('regmean', 'star', 'tall_mask', 'tsv_m', 'wudi'),
}
_NOTHING = 1e-8  # a sum of weights below this divides nothing
_DIGITS = 7
# Ties of decimals fall on one side whatever the last bits of a number are.
_NUDGE = 3e-10


def forms(made: Sequence[Output], seed: int) -> list[Any]:
  """One form a tensor, of JSON's types; equal where the effect is equal.

  Args:
    made: all tensors of a merge.
    seed: of random masks.
  """
  wholes: dict[Any, list[str]] = {}

  def whole(output: Output) -> list[str]:
    """What each expert's whole model consists of, as digests [K]."""
    key = output.whole
    if key not in wholes:
      members = [o for o in made if o.whole == key]
      wholes[key] = [
        _digest(sorted((*o.sources[k], *(o.base or ())) for o in members))
        for k in range(len(output.sources))
      ]
    return wholes[key]

  return [[output.name, *_form(output, seed, whole)] for output in made]


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _form(
  output: Output, seed: int, whole: Callable[[Output], list[str]]
) -> list[Any]:
  scale = output.scale
  factor, added = 1.0, 0.0
  if scale is not None and scale.value != 1:
    factor, added = scale.value, scale.value * scale.offset - scale.offset
  if factor == 0:
    return _sum({}, 0.0, added)
  name = output.method.name
  terms = _terms(output)
  if terms is not None:
    return _sum(terms, factor, added)
  if name == 'slerp':
    found: list[Any] = _arc(output)
  elif name in _SPARSE:
    found = _sparse(output, seed, whole)
  else:
    found = _other(output, whole)
  return [*found, _number(factor), _decimal(added)]


# -- sums


def _sum(terms: Mapping[Place, float], factor: float, added: float) -> list:
  """Σ c θ + added, as the largest |c| and the others relative to it."""
  largest = max(map(abs, terms.values()), default=0.0)
  listed = []
  if largest * factor:
    unit = largest if factor > 0 else -largest
    relative = ((place, _decimal(c / unit)) for place, c in terms.items())
    listed = sorted(term for term in relative if term[1])
  return ['sum', listed, _number(largest * abs(factor)), _decimal(added)]


def _terms(output: Output) -> Terms | None:
  """Coefficients where what is merged is a plain sum, else None."""
  name, values = output.method.name, output.parameters
  sources, base = output.sources, output.base
  if name == 'passthrough':
    return {sources[0]: values['scale'][0]}
  if name == 'linear':
    divisor = sum(values['weight']) if values['normalize'] > 0 else 1.0
    if divisor == 0:
      return None
    return _collected(sources, [w / divisor for w in values['weight']])
  if name == 'slerp':
    return _end(output)
  if base is None:
    return None
  if name == 'task_arithmetic':
    return _moved(base, sources, _shares(values['weight'], values))
  if name in _SPARSE:
    return _dense(output)
  if name in _STEPS and values['lambda'] == 0:
    return {base: 1.0}
  return None


def _collected(places: Sequence[Place], weights: Sequence[float]) -> Terms:
  found: Terms = {}
  for place, weight in zip(places, weights, strict=True):
    found[place] = found.get(place, 0.0) + weight
  return found


def _moved(
  base: Place, places: Sequence[Place], weights: Sequence[float]
) -> Terms:
  """Of θ₀ + Σ w (θ - θ₀)."""
  return _collected([base, *places], [1.0 - sum(weights), *weights])


def _shares(weights: Sequence[float], values: Mapping[str, Any]) -> list[float]:
  """λ w, or λ w / Σ w with `normalize`."""
  total = sum(weights) if values['normalize'] > 0 else 1.0
  divisor = 1.0 if abs(total) < _NOTHING else total
  return [values['lambda'] * w / divisor for w in weights]


# -- spherical interpolation


def _ends(output: Output) -> tuple[Place, Place] | None:
  values = output.parameters
  at = int(values['first']), int(values['second'])
  if not all(0 <= i < len(output.sources) for i in at):
    return None
  return output.sources[at[0]], output.sources[at[1]]


def _end(output: Output) -> Terms | None:
  """Of an arc that is but one of its ends."""
  ends, t = _ends(output), output.parameters['t']
  if ends is None:
    return None
  if t == 0 or ends[0] == ends[1]:
    return {ends[0]: 1.0}
  return {ends[1]: 1.0} if t == 1 else None


def _arc(output: Output) -> list[Any]:
  ends, t = _ends(output), output.parameters['t']
  if ends is not None and ends[1] < ends[0]:
    ends, t = ends[::-1], 1.0 - t
  if ends is None:
    numbers = [_number(v) for v in output.parameters.values()]
    return ['slerp', output.sources, numbers]
  return ['slerp', ends, _decimal(t)]


# -- TIES, DARE, Breadcrumbs, DELLA


def _dense(output: Output) -> Terms | None:
  """Coefficients where nothing is dropped and no sign is outvoted."""
  assert output.base is not None
  values = output.parameters
  weights, densities = values['weight'], values['density']
  kept = [k for k, w in enumerate(weights) if w != 0]
  if values['lambda'] == 0 or not kept:
    return {output.base: 1.0}
  name, semantics = output.method.name, output.method.semantics
  tails = name.startswith('breadcrumbs') and semantics == 'paper'
  if tails or any(densities[k] < 1 for k in kept):
    return None
  if name not in _SIGNS:
    return _moved(output.base, output.sources, _shares(weights, values))
  if len(kept) > 1:
    return None
  (k,) = kept
  weight = 1.0 if values['normalize'] > 0 else weights[k]
  return _moved(output.base, [output.sources[k]], [values['lambda'] * weight])


def _sparse(
  output: Output, seed: int, whole: Callable[[Output], list[str]]
) -> list[Any]:
  name, semantics = output.method.name, output.method.semantics
  values = output.parameters
  step, factors = _steps(output)
  tails = name.startswith('breadcrumbs') and semantics == 'paper'
  thin = any(
    d < 1 for d, w in zip(values['density'], factors, strict=True) if w
  )
  experts = []
  for k, (place, weight) in enumerate(
    zip(output.sources, factors, strict=True)
  ):
    if weight == 0:
      continue
    density = values['density'][k]
    entry = [*place, _number(weight), _number(min(1.0, density))]
    if density < 1 or tails:
      entry += [
        _number(values[key][k]) for key in ('epsilon', 'gamma') if key in values
      ]
    if 0 < density < 1 and name in _RANDOM:
      entry += [seed, k, output.sources[0][1]]  # what its draws belong to
    if density < 1 and output.method.whole:
      entry.append(whole(output)[k])
    experts.append(entry)
  rescaled = bool(values['rescale']) and (thin or tails)
  return [
    name if thin or tails else 'elected',
    semantics if thin or tails else None,
    output.base,
    sorted(experts),
    step,
    rescaled,
  ]


def _steps(output: Output) -> tuple[list[Any], Sequence[float]]:
  """What is left of λ and `normalize`, and the weights that hold the rest."""
  values = output.parameters
  step, weights = values['lambda'], values['weight']
  if output.method.name not in _SIGNS:
    return [], _shares(weights, values)
  if sum(w != 0 for w in weights) == 1:  # nothing is outvoted
    unit = values['normalize'] > 0
    return [], [step * (w != 0 if unit else w) for w in weights]
  if values['normalize'] > 0:  # the size of all weights cancels
    total = sum(map(abs, weights))
    return [_number(step)], [w / total for w in weights]
  # A positive factor elects the same signs.
  return [step > 0], [abs(step) * w for w in weights]


# -- all others


def _other(output: Output, whole: Callable[[Output], list[str]]) -> list[Any]:
  """All numbers; experts in any order, unless one is told by its place."""
  shared, each = [], [list(place) for place in output.sources]
  for parameter in output.method.parameters:
    value = _number(output.parameters[parameter.name])
    if not parameter.per_expert:
      shared.append(value)
      continue
    for entry, own in zip(each, value, strict=True):
      entry.append(own)
  if output.method.whole:
    for entry, own in zip(each, whole(output), strict=True):
      entry.append(own)
  name = output.method.name
  experts = each if name == 'tall_mask' else sorted(each)
  return [name, output.method.semantics, experts, output.base, shared]


# -- numbers


def _number(value: Any) -> Any:
  """To seven digits; of each entry of a tuple."""
  if isinstance(value, tuple | list):
    return [_number(entry) for entry in value]
  return float(f'{float(value) * (1 + _NUDGE):.{_DIGITS}g}')


def _decimal(value: float) -> float:
  """To seven decimals."""
  return round(value + _NUDGE, _DIGITS) + 0.0
