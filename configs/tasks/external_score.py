"""A scorer for external.yaml, in place of your own.

python external_score.py MODEL ITEMS.json OUT.json

It shows the exchange only: the share of an item's letters in the model's
config, and whether that is found at all.
"""

import json
import pathlib
import sys


def main(model: str, items: str, out: str) -> None:
  config = (pathlib.Path(model) / 'config.json').read_text()
  scores = {}
  for item in json.loads(pathlib.Path(items).read_text()):
    share = sum(letter in config for letter in item) / len(item)
    scores[item] = {'score': share, 'flags': [] if share else ['unparsed']}
  pathlib.Path(out).write_text(json.dumps(scores))


if __name__ == '__main__':
  main(*sys.argv[1:])
