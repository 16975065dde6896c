"""Functions of known optimum, in the manner of BBOB; numpy alone.

`xp` is numpy or jax.numpy, so that programs without JAX score the same. Values
are lost ones: 0 at the optimum, higher is worse. x is in [0, 1]^D, and one unit
of it is ten of the function's own, as BBOB's box is [-5, 5].
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Function:
  """One function, shifted and rotated at random.

  Attributes:
    name: of the shape, a key of `SHAPES`.
    target: where the optimum is, [D].
    rotation: [D, D].
  """

  name: str
  target: np.ndarray
  rotation: np.ndarray

  def __call__(self, x, xp=np):
    """Loss of x [..., D], [...]."""
    z = (x - xp.asarray(self.target, x.dtype)) * 10
    turned = z @ xp.asarray(self.rotation, x.dtype)
    return SHAPES[self.name](turned, xp)


def make(name: str, num_dims: int, seed: int = 0) -> Function:
  """A function whose optimum is at least 0.2 from the edges of the box."""
  draw = np.random.default_rng([seed, num_dims])
  target = draw.uniform(0.2, 0.8, num_dims)
  rotation = np.linalg.qr(draw.normal(size=(num_dims, num_dims)))[0]
  return Function(name, target, rotation)


def _scale(xp, z, power):
  return xp.asarray(10.0 ** np.linspace(0, power, z.shape[-1]), z.dtype)


def sphere(z, xp):
  return (z**2).sum(-1)


def ellipsoid(z, xp):
  return (z**2 * _scale(xp, z, 4)).sum(-1)


def rosenbrock(z, xp):
  u = z * max(1, z.shape[-1] ** 0.5 / 8) + 1
  return (
    100 * (u[..., 1:] - u[..., :-1] ** 2) ** 2 + (u[..., :-1] - 1) ** 2
  ).sum(-1)


def rastrigin(z, xp):
  return (z**2 + 10 * (1 - xp.cos(2 * np.pi * z))).sum(-1)


def sector(z, xp):
  """Attractive sector: losses on one side of the optimum weigh 100 times."""
  return ((z * xp.where(z > 0, 100.0, 1.0)) ** 2).sum(-1) ** 0.9


def steps(z, xp):
  """Ellipsoid of plateaus."""
  coarse = xp.where(
    abs(z) > 0.5, xp.floor(0.5 + z), xp.floor(0.5 + 10 * z) / 10
  )
  return (coarse**2 * _scale(xp, z, 2)).sum(-1)


SHAPES = {
  'sphere': sphere,
  'ellipsoid': ellipsoid,
  'rosenbrock': rosenbrock,
  'rastrigin': rastrigin,
  'sector': sector,
  'steps': steps,
}
