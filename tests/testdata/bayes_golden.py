"""Writes bayes_scikit_learn_1.9.1.npz: processes as bayes_opt fits them.

.venv-peers/bin/python tests/testdata/bayes_golden.py

Of case I: `xI` [N, D] and `yI` [N]; the fitted `lengthI` [] and its
`evidenceI` []; `meanI` and `stdI` [Q] at `askedI` [Q, D]. The last case has
scores of one value only.
"""

import importlib.metadata
import pathlib

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

SHAPES = ((12, 1), (25, 1), (30, 2), (20, 4), (60, 4), (60, 6), (10, 3))


def main() -> None:
  draw = np.random.default_rng(0)
  found = {}
  for i, (rows, num_dims) in enumerate(SHAPES):
    x = draw.random((rows, num_dims)).astype(np.float32)
    peak = draw.uniform(0.2, 0.6, num_dims)
    y = 0.7 - ((x - peak) ** 2).mean(-1) + 0.05 * np.sin(9 * x[:, 0])
    noise = 0.01 * (i % 2) * draw.normal(size=rows)
    y = (y + noise).astype(np.float32)
    if i == len(SHAPES) - 1:
      y = np.full(rows, 0.5, np.float32)
    process = GaussianProcessRegressor(
      Matern(nu=2.5),
      alpha=1e-6,
      normalize_y=True,
      n_restarts_optimizer=5,
      random_state=0,
    ).fit(x.astype(float), y.astype(float))
    asked = np.concatenate([draw.random((7, num_dims)), x[:1]])
    asked = asked.astype(np.float32)
    mean, std = process.predict(asked.astype(float), return_std=True)
    found |= {
      f'x{i}': x,
      f'y{i}': y,
      f'asked{i}': asked,
      f'length{i}': np.array(process.kernel_.length_scale),
      f'evidence{i}': np.array(process.log_marginal_likelihood_value_),
      f'mean{i}': mean,
      f'std{i}': std,
    }
  version = importlib.metadata.version('scikit-learn')
  name = f'bayes_scikit_learn_{version}.npz'
  path = pathlib.Path(__file__).with_name(name)
  np.savez_compressed(path, **found)
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
