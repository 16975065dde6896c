"""Log-likelihoods by lm-eval's Hugging Face backend; runs in .venv-peers.

python likelihood_peer.py FOLDER GIVEN.npz ANSWER.npz

Given `prompts` and `continuations` [n], `texts` [m] and `max_tokens`; answers
with `nats` and `greedy` [n] and `rolling` [m].
"""

import sys

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models import huggingface


def main(folder: str, given: str, answer: str) -> None:
  with np.load(given) as file:
    told = {name: array.tolist() for name, array in file.items()}
  model = huggingface.HFLM(
    pretrained=folder,
    device='cpu',
    dtype='float32',
    batch_size=3,
    max_length=told['max_tokens'],
  )
  pairs = zip(told['prompts'], told['continuations'], strict=True)
  asked = [
    Instance('loglikelihood', {}, pair, index)
    for index, pair in enumerate(pairs)
  ]
  found = model.loglikelihood(asked, disable_tqdm=True)
  whole = [
    Instance('loglikelihood_rolling', {}, (text,), index)
    for index, text in enumerate(told['texts'])
  ]
  rolling = model.loglikelihood_rolling(whole, disable_tqdm=True)
  np.savez(
    answer,
    nats=np.array([nats for nats, _ in found]),
    greedy=np.array([greedy for _, greedy in found]),
    rolling=np.array(rolling),
  )


if __name__ == '__main__':
  main(*sys.argv[1:])
