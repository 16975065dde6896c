"""Log-likelihoods against lm-eval's Hugging Face backend, live."""

import numpy as np
import pytest

from automerge_jax.io import assets, gguf
from automerge_jax.models import registry
from automerge_jax.tasks import (
  continuations,
  likelihood,
  packing,
  perplexity,
)
from tests import tiny_text

pytestmark = pytest.mark.oracle

PAIRS = (
  ('Headline: Area man wins argument with toaster\nSarcastic:', ' yes'),
  ('Headline: Area man wins argument with toaster\nSarcastic:', ' no'),
  ('The capital of France is', ' Paris.'),
  ('The capital of France is ', 'a city on the Seine, is it not?'),
  ('', 'In 1998, 12 people were there.'),
  ('Once upon a time there was a king who ' * 4, 'had three sons.'),
)
TEXTS = ('Naïve café owners — 東京 — über alles!?', 'It is one of them. ' * 25)


def _compare(folder, given, answer, atol):
  model = registry.load(folder)
  coder = continuations.coder(folder)
  most = int(given['max_tokens'])
  pairs = zip(
    given['prompts'].tolist(), given['continuations'].tolist(), strict=True
  )
  whole = continuations.requests(coder, list(pairs))
  cut = [packing.truncate(request, most)[0] for request in whole]
  texts = [('', text) for text in given['texts'].tolist()]
  windows = [
    perplexity.rolling(request, most)
    for request in perplexity.whole_texts(coder, texts)
  ]
  asked = cut + [window for some in windows for window in some]
  nats, greedy = likelihood.log_likelihoods(model.family, model.params, asked)
  rest = iter(nats[len(cut) :])
  rolling = [sum(next(rest) for _ in some) for some in windows]
  np.testing.assert_allclose(nats[: len(cut)], answer['nats'], atol=atol)
  np.testing.assert_array_equal(greedy[: len(cut)], answer['greedy'])
  np.testing.assert_allclose(rolling, answer['rolling'], rtol=1e-5, atol=atol)


@pytest.mark.parametrize('begins', [False, True])
def test_tiny_decoder(ask_peer, tmp_path, begins):
  folder = tiny_text.write(tmp_path / 'model', begins)
  given = tiny_text.given()
  answer = ask_peer('oracle/likelihood_peer.py', folder, **given)
  _compare(folder, given, answer, atol=1e-4)


def test_smollm2(ask_peer, tmp_path):
  folder = tmp_path / 'smollm2'
  gguf.to_hugging_face(assets.fetch('smollm2') / 'model.gguf', folder)
  prompts, continued = zip(*PAIRS, strict=True)
  given = {
    'prompts': np.array(prompts),
    'continuations': np.array(continued),
    'texts': np.array(TEXTS),
    'max_tokens': np.array(40),
  }
  answer = ask_peer('oracle/likelihood_peer.py', folder, **given)
  _compare(folder, given, answer, atol=1e-3)
