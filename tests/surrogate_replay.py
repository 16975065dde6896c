"""Compares the surrogate with what scikit-learn made of the same data."""

import itertools

import numpy as np

from automerge_jax.search import observations, surrogate
from experiments.bench import problems


def compare(recorded) -> int:
  """Number of processes that agree; see tests/oracle/surrogate_peer.py."""
  for i in itertools.count():
    if f'x{i}' not in recorded:
      return i
    x, value = recorded[f'x{i}'], recorded[f'value{i}']
    variance = recorded[f'variance{i}']
    rows = [
      observations.Observation(x[j], 0, 1.0, value[[j]], variance[[j]], 0.0)
      for j in range(len(x))
    ]
    scale, amplitude, noise = recorded[f'hyper{i}']
    process = surrogate.surrogate(problems.typed([0] * x.shape[1]))
    # What float32 needs on the diagonal is part of the noise.
    noise -= surrogate._JITTER * amplitude
    fitted = process.condition(
      surrogate.Hyper(
        np.log([scale]).astype(np.float32),
        np.float32(np.log(amplitude)),
        np.float32(-30),
        np.float32(np.log(noise)),
      ),
      observations.table(rows, 64, x.shape[1], 1),
    )
    mean, left = process.predict(recorded[f'asked{i}'], fitted)
    spread = value.std()
    np.testing.assert_allclose(
      mean[:, 0], recorded[f'mean{i}'], atol=1e-3 * spread
    )
    np.testing.assert_allclose(
      np.sqrt(left[:, 0]), recorded[f'std{i}'], rtol=5e-3
    )
    np.testing.assert_allclose(
      fitted.evidence[0], recorded[f'evidence{i}'], atol=0.02
    )
