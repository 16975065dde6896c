"""Local tasks of lm_eval, one a kind, with data of their own."""

import json

TASKS = ('tiny_choice', 'tiny_generation', 'tiny_perplexity')
_WORDS = 'zero one two three four five six seven eight nine'.split()
_DATA = """\
task: {task}
dataset_path: json
dataset_kwargs:
  cache_dir: {folder}/cache
  data_files:
"""
_BODIES = {
  'tiny_choice': """\
output_type: multiple_choice
training_split: train
validation_split: validation
test_split: test
doc_to_text: "Q: {{question}}\\nA:"
doc_to_choice: "{{options}}"
doc_to_target: "{{gold}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
  'tiny_generation': """\
output_type: generate_until
training_split: train
test_split: test
doc_to_text: "Say {{question}}:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n", BB], max_gen_toks: 8}
filter_list:
  - name: letter
    filter:
      - {function: regex, regex_pattern: "([^a-z`])"}
      - {function: take_first}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
""",
  'tiny_perplexity': """\
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{question}} {{answer}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: byte_perplexity}
  - {metric: bits_per_byte}
""",
}


def rows(split, count):
  """Made-up documents."""
  offset = {'train': 0, 'validation': 300, 'test': 600}[split]
  found = []
  for i in range(offset, offset + count):
    word = ' '.join(_WORDS[int(digit)] for digit in str(i))
    found.append(
      {
        'question': f'{word} is what',
        'options': [str(i), f'{word} and more', _WORDS[i % 10]],
        'gold': i % 3,
        'answer': '!&F'[i % 3],  # what the tiny model is prone to write
      }
    )
  return found


def write(folder, counts=(('train', 24), ('validation', 12), ('test', 10))):
  """Writes YAML and data of all TASKS; returns `folder`."""
  folder.mkdir(parents=True, exist_ok=True)
  for split, count in counts:
    lines = '\n'.join(map(json.dumps, rows(split, count)))
    (folder / f'{split}.jsonl').write_text(lines)
  for task, body in _BODIES.items():
    head = _DATA.format(task=task, folder=folder)
    for split, _ in counts:
      if f'_split: {split}\n' in body:
        head += f'    {split}: {folder}/{split}.jsonl\n'
    (folder / f'{task}.yaml').write_text(head + body)
  return folder
