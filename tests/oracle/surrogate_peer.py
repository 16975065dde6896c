"""Gaussian processes of scikit-learn on random data; runs in .venv-peers.

python surrogate_peer.py INPUTS.npz OUTPUTS.npz, with `seed` and `count`

Of case I: `xI` [N, D], `valueI` [N], `varianceI` [N], `askedI` [Q, D], then
`hyperI`: length scale, amplitude and noise of the kernel in units of the
values' standard deviation; `evidenceI` [], `meanI` and `stdI` [Q].
"""

import sys

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern


def record(seed: int, count: int) -> dict[str, np.ndarray]:
  draw = np.random.default_rng(seed)
  found = {}
  for i in range(count):
    rows, num_dims = draw.integers(5, 60), (1, 3, 20, 112)[i % 4]
    x = draw.random((rows, num_dims)).astype(np.float32).astype(float)
    slope = draw.normal(size=num_dims) / num_dims**0.5
    # Bounded, as the surrogate fences what lies far below the rest.
    value = np.sin(3 * x @ slope) / 10 + draw.uniform(0.2, 0.4, rows)
    value = value.astype(np.float32).astype(float)
    variance = draw.uniform(1e-4, 1e-3, rows)
    scale = draw.uniform(0.3, 1.5) * num_dims**0.5
    amplitude, noise = draw.uniform(0.5, 2), draw.uniform(1e-3, 0.05)
    process = GaussianProcessRegressor(
      ConstantKernel(amplitude) * Matern(length_scale=scale, nu=2.5),
      alpha=variance / value.std() ** 2 + noise,
      optimizer=None,
      normalize_y=True,
    ).fit(x, value)
    asked = draw.random((7, num_dims)).astype(np.float32).astype(float)
    mean, std = process.predict(asked, return_std=True)
    found |= {
      f'x{i}': x,
      f'value{i}': value,
      f'variance{i}': variance,
      f'asked{i}': asked,
      f'hyper{i}': np.array([scale, amplitude, noise]),
      f'evidence{i}': np.array(process.log_marginal_likelihood_value_),
      f'mean{i}': mean,
      f'std{i}': std,
    }
  return found


def main(inputs: str, outputs: str) -> None:
  with np.load(inputs) as given:
    recorded = record(int(given['seed']), int(given['count']))
  np.savez(outputs, **recorded)


if __name__ == '__main__':
  main(*sys.argv[1:])
