"""lm_eval by our models and by its Hugging Face backend, live."""

import json
import pathlib
import subprocess

import pytest

from automerge_jax.io import assets, gguf
from experiments import lm_eval
from tests import tiny_harness, tiny_language
from tests.harness_model_test import compare
from tests.oracle.conftest import PYTHON, ROOT

pytestmark = pytest.mark.oracle


def _theirs(scratch, model, **options):
  if not PYTHON.exists():
    pytest.fail(f'{PYTHON} is missing; run `make peers`')
  given, out = scratch / 'options.json', scratch / 'out.json'
  given.write_text(json.dumps(options))
  script = ROOT / 'tests' / 'oracle' / 'harness_peer.py'
  command = [PYTHON, script, model, given, out]
  ran = subprocess.run(
    list(map(str, command)),
    check=False,
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert ran.returncode == 0, ran.stderr[-2000:]
  return json.loads(out.read_text())


@pytest.mark.parametrize('shots, chat', [(0, False), (1, True), (3, False)])
def test_tiny_model(tmp_path, shots, chat):
  """With three examples, prompts and texts go beyond the model's length."""
  model = tiny_language.write(tmp_path / 'model')
  folder = tiny_harness.write(tmp_path / 'tasks')
  tasks = list(tiny_harness.TASKS)
  longest = 40 if shots == 3 else None
  theirs = _theirs(
    tmp_path,
    model,
    tasks=tasks,
    include_path=str(folder),
    num_fewshot=shots,
    apply_chat_template=chat,
    max_length=longest,
  )
  ours = lm_eval.run(
    model,
    tasks,
    include_path=folder,
    num_fewshot=shots,
    chat_template=chat,
    max_tokens=longest,
  )
  assert compare(ours, theirs) == 10 * (3 + 1 + 1)


def test_smollm2(tmp_path):
  """The real model in torch and here; its sums are a few hundred nats."""
  (path,) = pathlib.Path(assets.fetch('smollm2')).glob('*.gguf')
  model = tmp_path / 'smollm2'
  gguf.to_hugging_face(path, model)
  folder = tiny_harness.write(
    tmp_path / 'tasks', (('train', 12), ('validation', 6), ('test', 4))
  )
  tasks = list(tiny_harness.TASKS)
  options = {'include_path': str(folder), 'num_fewshot': 2}
  theirs = _theirs(tmp_path, model, tasks=tasks, **options)
  ours = lm_eval.run(model, tasks, **options)
  assert compare(ours, theirs, nats=2e-3) == 4 * (3 + 1 + 1)
