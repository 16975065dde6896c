"""Writes merging*_mergekit_0.1.5.npz: mergekit's own merges of random stacks.

.venv-peers/bin/python tests/testdata/merging_golden.py

Each holds `cases` (a JSON list of {method, tensor, parameters} and, where not
all experts or no base are merged, `count` and `based`), per tensor
`<tensor>/base` [...] and `<tensor>/experts` [K, ...], and `merged`, the results
behind one another, but for those of `refused` cases (a JSON list of indices),
where Multi-SLERP's directions balance.
SLERP goes from expert 0 to expert 1, mergekit's base and other model.
"""

import importlib.metadata
import json
import pathlib
from types import ModuleType

import merging_further
import numpy as np
import torch
from mergekit.merge_methods import registry
from mergekit.merge_methods.base import TensorGroup

WEIGHTS = ((0.5, 0.3, 0.8), (1.0, 0.0, 0.0), (0.9, -0.4, 0.25))
DENSITIES = (1.0, 0.0, 0.05, 0.2, 0.5, 0.999, (0.9, 0.25, 0.1), 1 / 3)


def tensors(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """(base, experts) by name: ordinary, tiny, and awkward ones."""
  draw = np.random.default_rng(seed)

  def random(*shape, delta=0.1):
    base = draw.normal(size=shape)
    return base, base + delta * draw.normal(size=(3, *shape))

  made = {
    'matrix': random(17, 23),
    'vector': random(29),
    'cube': random(3, 5, 4),
    'one': random(1),
    'three': random(3),
    'small_deltas': random(6, 7, delta=1e-4),
  }
  # Few magnitudes: ties in the trimming and exact cancellations of signs.
  steps = draw.integers(-2, 3, size=(3, 11, 9)) / 4
  made['tied'] = (np.zeros((11, 9)), steps)
  base = draw.normal(size=(8, 6))
  made['no_deltas'] = (base, np.stack([base] * 3))
  first, other = draw.normal(size=(2, 8, 6))
  pairs = {
    'near_parallel': first + 0.05 * other,  # cosine near 0.9987
    'parallel': 1.5 * first + 1e-3 * other,
    'antiparallel': -0.8 * first,
    'equal': first,
    'zero': 0 * first,
    'tiny': 1e-10 * other,
    'obtuse': other - 0.9 * first,
  }
  for name, second in pairs.items():
    made[name] = (first, np.stack([first, second]))
  made['both_zero'] = (0 * first, np.zeros((2, 8, 6)))
  return {
    name: (base.astype(np.float32), experts.astype(np.float32))
    for name, (base, experts) in made.items()
  }


def cases(made) -> list[dict]:
  """What is merged with which parameters."""
  triples = [name for name, (_, experts) in made.items() if len(experts) == 3]
  listed = []

  def add(method, tensor, **parameters):
    listed.append(
      {'method': method, 'tensor': tensor, 'parameters': parameters}
    )

  for tensor in triples:
    for weight in WEIGHTS:
      for normalize in (True, False):
        add('linear', tensor, weight=weight, normalize=normalize)
        for strength in (1.0, 0.35):
          add(
            'task_arithmetic',
            tensor,
            weight=weight,
            normalize=normalize,
            **{'lambda': strength},
          )
    for density in DENSITIES:
      for i, weight in enumerate(WEIGHTS):
        # Which of equal magnitudes stay is left to an unstable sort; alone, an
        # expert still shows how many and how large they are.
        if tensor == 'tied' and i != 1 and density not in (0.0, 1.0):
          continue
        per_expert = density if isinstance(density, tuple) else (density,) * 3
        normalize, strength = [(True, 1.0), (False, 0.35), (True, 1.4)][i]
        add(
          'ties',
          tensor,
          weight=weight,
          density=per_expert,
          normalize=normalize,
          **{'lambda': strength},
        )
  # Weights that sum to zero: mergekit then does not divide.
  cancelling = {'weight': (0.5, -0.75, 0.25), 'normalize': True, 'lambda': 1.0}
  add('task_arithmetic', 'matrix', **cancelling)
  for tensor, density in (('matrix', 0.6), ('tied', 1.0)):
    add('ties', tensor, **cancelling, density=(density,) * 3)
  for tensor in made:
    if tensor not in triples or tensor in ('matrix', 'vector', 'one'):
      for t in (0.0, 0.2, 0.5, 0.77, 1.0):
        add('slerp', tensor, t=t)
  return listed


def merge(case: dict, base: np.ndarray, experts: np.ndarray) -> np.ndarray:
  """One case by mergekit."""
  tensors = [torch.from_numpy(array.copy()) for array in (base, *experts)]
  return merge_tensors(case, tensors[0], tensors[1:]).numpy()


def merge_tensors(
  case: dict, base: torch.Tensor, experts: list[torch.Tensor]
) -> torch.Tensor:
  """One case by mergekit, in the tensors' dtype."""
  inputs = experts[: case.get('count')]
  if case['method'] == 'slerp':
    group = TensorGroup.from_tensors(inputs[:2], base_index=0)
  elif case['method'] == 'linear' or not case.get('based', True):
    group = TensorGroup.from_tensors(inputs)
  else:
    group = TensorGroup.from_tensors([base, *inputs], base_index=0)
  method = registry.get(case['method'])
  (merged,) = method([group], parameters=dict(case['parameters']))
  return merged


def keeping(seed: int) -> dict[str, np.ndarray]:
  """How often random masks keep each entry of one expert, and its L1 norm.

  `kept` (a JSON list of method, density, epsilon), `kept/<i>/base`, `expert`,
  `count` of merges that keep each entry, int64 [...], and `l1` of the merged
  delta in each, [REPEATS].
  """
  draw = np.random.default_rng(seed)
  torch.manual_seed(seed)
  recorded = {'kept': np.array(json.dumps(merging_further.KEPT))}
  for i, (method, density, epsilon) in enumerate(merging_further.KEPT):
    base, delta = draw.normal(size=(2, 6, 11)).astype(np.float32)
    parameters = {'weight': (1.0,), 'density': (density,), 'normalize': False}
    if epsilon is not None:
      parameters['epsilon'] = (epsilon,)
    case = {'method': method, 'parameters': parameters}
    expert = base + delta
    moved = np.stack(
      [
        merge(case, base, expert[None]) - base
        for _ in range(merging_further.REPEATS)
      ]
    )
    recorded |= {
      f'kept/{i}/base': base,
      f'kept/{i}/expert': expert,
      f'kept/{i}/count': (moved != 0).sum(axis=0),
      f'kept/{i}/l1': np.abs(moved).sum(axis=(1, 2)),
    }
  return recorded


def record(seed: int, suite: ModuleType | None = None) -> dict[str, np.ndarray]:
  """Everything recorded, by name.

  Args:
    seed: of the tensors.
    suite: has `tensors` and `cases`; default, those above.
  """
  made = (suite.tensors if suite else tensors)(seed)
  listed = (suite.cases if suite else cases)(made)
  recorded, merged, refused = {}, [], []
  for name, (base, experts) in made.items():
    recorded |= {f'{name}/base': base, f'{name}/experts': experts}
  for i, case in enumerate(listed):
    try:
      merged.append(merge(case, *made[case['tensor']]).reshape(-1))
    except ValueError as error:
      if 'antipodal' not in str(error):
        raise
      refused.append(i)
  texts = {'cases': json.dumps(listed), 'refused': json.dumps(refused)}
  recorded |= {name: np.array(text) for name, text in texts.items()}
  return recorded | {'merged': np.concatenate(merged)}


def further(seed: int) -> dict[str, np.ndarray]:
  """Everything recorded of the further methods, by name."""
  return record(seed, merging_further) | keeping(seed)


def main() -> None:
  version = importlib.metadata.version('mergekit')
  for name, recorded in (('', record(0)), ('_further', further(0))):
    path = pathlib.Path(__file__).with_name(
      f'merging{name}_mergekit_{version}.npz'
    )
    np.savez_compressed(path, **recorded)
    count = len(json.loads(str(recorded['cases'])))
    print(f'{path.name}: {count} cases, {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
