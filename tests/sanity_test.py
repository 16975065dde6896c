"""The gate: parents pass, broken models do not, and it says why."""

import numpy as np
import pytest

from automerge_jax.search import sanity
from automerge_jax.search.sanity import Vitals

NAN = float('nan')


def test_limits_are_those_of_the_worst_parent():
  most = sanity.limits([Vitals(2.0, 3.0), Vitals(1.0, 4.0)])
  np.testing.assert_allclose(most.rms, 20.0)
  np.testing.assert_allclose(most.nll, 4 + np.log(50), rtol=1e-6)


@pytest.mark.parametrize(
  'found, words',
  [
    (Vitals(NAN, 0.0), 'not finite'),
    (Vitals(1.0, float('inf')), 'not finite'),
    (Vitals(21.0, 1.0), 'root mean square of 21; the parents allow 20'),
    (Vitals(1.0, 9.0), r'perplexity on plain sentences is 8.1e\+03'),
  ],
)
def test_a_broken_model_is_stopped_with_a_reason(found, words):
  most = Vitals(20.0, 8.0)
  assert not sanity.passes(found, most)
  with pytest.raises(ValueError, match=words):
    raise ValueError(sanity.reason(found, most))


def test_a_parent_passes_its_own_gate():
  parents = [Vitals(2.0, 3.0), Vitals(1.0, 4.0)]
  most = sanity.limits(parents)
  assert all(sanity.passes(parent, most) for parent in parents)
  assert all(sanity.reason(parent, most) is None for parent in parents)


def test_an_open_gate_stops_what_is_not_finite():
  assert sanity.passes(Vitals(1e9, 1e3), sanity.OPEN)
  for found in (Vitals(NAN, 0.0), Vitals(float('inf'), 0.0), Vitals(1.0, NAN)):
    assert not sanity.passes(found, sanity.OPEN)
    assert 'not finite' in sanity.reason(found, sanity.OPEN)


def test_waves_are_images():
  pixels = sanity.waves(28)['pixels']
  assert pixels.shape == (4, 3, 28, 28)
  assert 0.5 < float(abs(pixels).max()) <= 1.01
