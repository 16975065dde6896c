"""Writes merging_mergekit_0.1.5.npz: mergekit's own merges of random stacks.

.venv-peers/bin/python tests/testdata/merging_golden.py

Holds `cases` (a JSON list of {method, tensor, parameters}), per tensor
`<tensor>/base` [...] and `<tensor>/experts` [K, ...], per case `merged/<i>`.
SLERP goes from expert 0 to expert 1, mergekit's base and other model.
"""

import importlib.metadata
import json
import pathlib

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
  inputs = [torch.from_numpy(expert.copy()) for expert in experts]
  parameters = dict(case['parameters'])
  if case['method'] == 'linear':
    group = TensorGroup.from_tensors(inputs)
  elif case['method'] == 'slerp':
    group = TensorGroup.from_tensors(inputs[:2], base_index=0)
  else:
    inputs = [torch.from_numpy(base.copy()), *inputs]
    group = TensorGroup.from_tensors(inputs, base_index=0)
  (merged,) = registry.get(case['method'])([group], parameters=parameters)
  return merged.numpy()


def record(seed: int) -> dict[str, np.ndarray]:
  """Everything recorded, by name."""
  made = tensors(seed)
  listed = cases(made)
  recorded = {'cases': np.array(json.dumps(listed))}
  for name, (base, experts) in made.items():
    recorded |= {f'{name}/base': base, f'{name}/experts': experts}
  for i, case in enumerate(listed):
    recorded[f'merged/{i}'] = merge(case, *made[case['tensor']])
  return recorded


def main() -> None:
  version = importlib.metadata.version('mergekit')
  path = pathlib.Path(__file__).with_name(f'merging_mergekit_{version}.npz')
  recorded = record(seed=0)
  np.savez_compressed(path, **recorded)
  merged = len([name for name in recorded if name.startswith('merged/')])
  print(f'{path.name}: {merged} cases, {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
