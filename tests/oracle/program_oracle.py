"""Exported layer programs in stock Transformers, live: drawn programs."""

import json

import numpy as np
import pytest

from automerge_jax.models import registry
from tests import program_exports as exports

pytestmark = pytest.mark.oracle


def test_drawn_programs_give_the_same_logits_in_transformers(
  ask_peer, tmp_path
):
  seed = int(np.random.default_rng().integers(2**31))
  draw = np.random.default_rng(seed)
  programs = {case: exports.random(case, draw) for case in exports.PROGRAMS}
  ours, given = {}, {}
  for case, program in programs.items():
    folder = exports.write(tmp_path / case, case, seed)
    out = exports.exported(folder, program)
    inputs = exports.inputs(case)
    given |= {f'{case}/{name}': array for name, array in inputs.items()}
    ours[case] = [
      exports.outputs(*model, inputs)
      for model in (registry.load(out), exports.searched(folder, program))
    ]
  told = ask_peer('oracle/program_peer.py', tmp_path, **given)
  for case, program in programs.items():
    theirs = exports.real(case, told[f'{case}/logits'])
    assert told[f'{case}/unread'].size == 0
    config = json.loads(str(told[f'{case}/config']))
    assert config['num_hidden_layers'] == sum(map(bool, program))
    errors = [np.abs(exports.real(case, x) - theirs).max() for x in ours[case]]
    print(f'{case}: exported {errors[0]:.1e}, searched {errors[1]:.1e}')
    for found in ours[case]:
      np.testing.assert_allclose(
        exports.real(case, found),
        theirs,
        rtol=1e-4,
        atol=2e-5,
        err_msg=f'{case}, seed {seed}: {program}',
      )
