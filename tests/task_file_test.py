"""Task files: every kind read, and every mistake named with file and line."""

import json

import pytest
import tokenizers

from automerge_jax.tasks import (
  choice,
  classification,
  definitions,
  external,
  generation,
  perplexity,
  prompts,
  sealed,
  splits,
  template,
)

N = 40  # rows
WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven')


def _word(i):
  return f'{WORDS[i // 8]}-{WORDS[i % 8]}'


def _rows(n=N):
  return [
    {
      'q': f'What is {_word(i)}?',
      'options': [f'red {i}', f'blue {i}', 'none'],
      'gold': i % 3,
      'answers': [f'{i}', f'no. {i}'],
      'meta': {'part': ['train', 'dev', 'test'][i % 3], 'words': [_word(i)]},
    }
    for i in range(n)
  ]


def _write(folder, yaml, name='task', **files):
  """A task file beside JSONL files of rows, or of raw text or bytes."""
  for stem, rows in ({'data': _rows()} | files).items():
    if not isinstance(rows, str | bytes):
      rows = '\n'.join(map(json.dumps, rows))
    raw = rows if isinstance(rows, bytes) else rows.encode()
    (folder / f'{stem}.jsonl').write_bytes(raw)
  path = folder / f'{name}.yaml'
  path.write_text(yaml)
  return path


CHOICE = """\
name: colours
kind: choice
data: data.jsonl
prompt: "Q: {q}\\nA:"
choices: options
label: gold
"""
GENERATION = """\
kind: generation
data: data.jsonl
prompt: "{q} It is"
answer: answers
"""


def _parts(path):
  return {
    'train': splits._open(str(path))['train'],
    'search': splits._open(str(path))['search'],
    'select': sealed._sealed(str(path))['select'],
    'heldout': sealed._sealed(str(path))['heldout'],
  }


def test_choice(tmp_path):
  path = _write(tmp_path, CHOICE)
  made = definitions.read(path)
  assert made.task == choice.Task('colours', 1024, 'acc')
  first = made.source.train[1]
  assert first.text == 'Q: What is zero-one?\nA:'
  assert first.choices == (' red 1', ' blue 1', ' none')
  assert first.label == 1
  parts = _parts(path)
  sizes = {split: len(items) for split, items in parts.items()}
  assert sizes == {'train': 22, 'search': 6, 'select': 5, 'heldout': 7}
  assert splits.search_items(str(path), 4) == parts['search'][:4]
  assert len({item.id for items in parts.values() for item in items}) == N


@pytest.mark.parametrize(
  'value, label',
  [(2, 2), ('2', 2), ('c', 2), ('B', 1), ('none', 2), (' red 0 ', 0)],
)
def test_labels_by_number_letter_or_text(tmp_path, value, label):
  rows = _rows()
  rows[0]['gold'] = value
  made = definitions.read(_write(tmp_path, CHOICE, data=rows))
  assert made.source.train[0].label == label


def test_generation_with_several_answers(tmp_path):
  made = definitions.read(
    _write(
      tmp_path,
      GENERATION
      + """\
stop: ["\\n", Q]
pattern: '\\d+'
max_new_tokens: 7
match: last
ignore_case: true
max_tokens: 50
""",
    )
  )
  assert made.task == generation.Task(
    name='task',
    max_tokens=50,
    max_new_tokens=7,
    stop=('\n', 'Q'),
    pattern=r'\d+',
    match='last',
    ignore_case=True,
  )
  assert made.source.train[3].answers == ('3', 'no. 3')
  assert made.source.train[3].choices == ()


def test_perplexity(tmp_path):
  made = definitions.read(
    _write(
      tmp_path,
      'kind: perplexity\ndata: data.jsonl\ntext: "{q} {meta.words[0]}"\n'
      'metric: byte\n',
    )
  )
  assert made.task == perplexity.Task('task', 1024, 'byte')
  assert made.source.train[2].choices == ('What is zero-two? zero-two',)
  assert made.source.train[2].text == ''


def test_classification(tmp_path):
  made = definitions.read(
    _write(
      tmp_path,
      'name: c\nkind: classification\ndata: data.jsonl\nprompt: "{q}"\n'
      'choices: [red, blue, green]\nlabel: gold\nmax_tokens: 32\n',
    )
  )
  assert made.task == classification.Task('c', ('red', 'blue', 'green'), 32)
  assert made.source.classes == ('red', 'blue', 'green')
  assert [e.label for e in made.source.train[:4]] == [0, 1, 2, 0]


def test_external(tmp_path):
  path = _write(
    tmp_path,
    'kind: external\ndata: data.jsonl\nid: "{meta.words[0]}"\n'
    'command: [python, score.py, "{model}", "{items}", "{out}"]\n'
    'timeout: 5\nattempts: 2\n',
  )
  made = definitions.read(path)
  assert made.task == external.Task(
    'task',
    command=('python', 'score.py', '{model}', '{items}', '{out}'),
    timeout=5.0,
    attempts=2,
    folder=str(tmp_path),
  )
  assert {i.text for items in _parts(path).values() for i in items} == {
    _word(i) for i in range(N)
  }


def test_splits_by_file_by_field_and_by_shares(tmp_path):
  rows = _rows()
  path = _write(
    tmp_path,
    CHOICE.replace(
      'data: data.jsonl',
      'data: {train: a.jsonl, dev: b.jsonl, test: my_test.jsonl}',
    ),
    a=rows[:10],
    b=rows[10:20],
    my_test=rows[20:],
  )
  sizes = {split: len(items) for split, items in _parts(path).items()}
  assert sizes == {'train': 10, 'search': 6, 'select': 4, 'heldout': 20}
  assert {i.text[3:-3] for i in _parts(path)['heldout']} == {
    row['q'] for row in rows[20:]
  }
  path = _write(tmp_path, CHOICE + 'split: {field: meta.part}\n', 'by_field')
  parts = _parts(path)
  sizes = {split: len(items) for split, items in parts.items()}
  assert sizes == {'train': 14, 'search': 7, 'select': 6, 'heldout': 13}
  assert {i.text[3:-3] for i in parts['train']} == {
    row['q'] for row in rows if row['meta']['part'] == 'train'
  }
  path = _write(
    tmp_path,
    CHOICE + 'split:\n  seed: 3\n'
    '  shares: {train: 0, search: 2, select: 1, heldout: 1}\n',
    'by_shares',
  )
  sizes = {split: len(items) for split, items in _parts(path).items()}
  assert sizes == {'train': 0, 'search': 20, 'select': 10, 'heldout': 10}


def test_examples_in_front_come_from_train_only(tmp_path):
  parts = _parts(_write(tmp_path, CHOICE + 'few_shot: {n: 2, seed: 1}\n'))
  fronts = set()
  for items in parts.values():
    for item in items:
      *shown, asked = item.text.split('\n\n')
      fronts.add(tuple(shown))
      assert asked.startswith('Q: ') and asked.endswith('A:')
  (front,) = fronts
  train = {
    item.text.split('\n\n')[-1] + item.choices[item.label]
    for item in parts['train']
  }
  assert len(front) == 2 and set(front) <= train
  alone = _parts(_write(tmp_path, CHOICE, 'alone'))
  assert [i.id for i in alone['search']] == [i.id for i in parts['search']]


def test_generation_shows_the_first_answer(tmp_path):
  path = _write(
    tmp_path,
    GENERATION + 'few_shot: {n: 1, separator: " | "}\n',
  )
  item = splits.search_items(str(path), 1)[0]
  shown, asked = item.text.split(' | ')
  assert asked.endswith('? It is')
  number = int(shown.rsplit(' It is ', 1)[1])
  assert shown.startswith(f'What is {_word(number)}?')


def test_chats_are_rendered_by_the_models_template(tmp_path):
  path = _write(
    tmp_path,
    CHOICE + 'few_shot: 1\nchat_template: true\nsystem_prompt: Be brief.\n',
  )
  made = definitions.read(path)
  (item,) = splits.search_items(str(path), 1)
  assert item.choices[0].startswith('red')  # no space behind a chat
  model = tmp_path / 'model'
  _write_tokenizer(model)
  with pytest.raises(ValueError, match='has no chat template'):
    definitions.render(made, [item], model)
  (model / 'chat_template.jinja').write_text(
    '{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}'
    '{% if add_generation_prompt %}<assistant>{% endif %}'
  )
  prompts._tokenizer.cache_clear()
  (seen,) = definitions.render(made, [item], model)
  lines = seen.text.split('<')[1:]
  assert lines[0] == 'system>Be brief.\n'
  assert lines[1].startswith('user>Q: What is ')
  assert lines[2].startswith('assistant>')
  assert lines[3] == f'user>{item.text}\n'
  assert lines[4:] == ['assistant>']
  assert (seen.id, seen.choices) == (item.id, item.choices)
  (model / 'chat_template.jinja').write_text(
    '{{ raise_exception("no system messages here") }}'
  )
  prompts._tokenizer.cache_clear()
  with pytest.raises(ValueError, match='no system messages here'):
    definitions.render(made, [item], model)


def _write_tokenizer(folder):
  folder.mkdir()
  words = {'[UNK]': 0, 'a': 1}
  hf = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(words, unk_token='[UNK]')
  )
  hf.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(
    '{"tokenizer_class": "PreTrainedTokenizerFast"}'
  )


def test_search_on_test_items_must_be_forced(tmp_path):
  yaml = CHOICE.replace('data.jsonl', 'test_v2.jsonl')
  path = _write(tmp_path, yaml, test_v2=_rows())
  with pytest.raises(ValueError) as caught:
    splits.search_items(str(path), 1)
  assert f'{path}:3: data: search items would come from the file' in str(
    caught.value
  )
  assert 'force_test_split' in str(caught.value)
  assert len(splits.search_items(str(path), 3, force_test_split=True)) == 3
  path = _write(tmp_path, yaml + 'force_test_split: true\n', 'forced')
  assert len(splits.search_items(str(path), 3)) == 3
  only = [row | {'meta': {'part': 'test'}} for row in _rows()]
  path = _write(
    tmp_path, CHOICE + 'split: {field: meta.part}\n', 'only', data=only
  )
  with pytest.raises(ValueError, match='come from the test split'):
    definitions.read(path)
  named = CHOICE.replace(
    'data.jsonl', '{search: x-test.jsonl, test: data.jsonl}'
  )
  path = _write(tmp_path, named, 'named', **{'x-test': _rows()})
  with pytest.raises(ValueError, match=r"from the file 'x-test\.jsonl'"):
    definitions.read(path)


CHANGED = [  # (in the YAML, becomes, message)
  ('kind: choice', 'kind: choise', "2: kind: unknown value 'choise'; did you"),
  ('kind: choice', '', '1: `kind` is missing; expected one of'),
  (
    'label: gold',
    'lable: gold',
    "6: unknown key 'lable'; did you mean 'label'",
  ),
  ('label: gold', '', '1: `label` is missing, which the kind'),
  (
    'label: gold',
    'label: gold\ntext: q',
    "7: text: a task of the kind 'choice'",
  ),
  ('label: gold', 'label: gold\nlabel: q', "7: the key 'label' is given twice"),
  ('name: colours', 'name: a/b', "1: name: the name 'a/b'; expected letters"),
  ('data.jsonl', 'dada.jsonl', '3: data: {folder}/dada.jsonl is no file; did'),
  ('{q}', '{q', 'prompt: the brace at character 4 of'),
  ('{q}', 'q}', 'prompt: the brace at character 5 of'),
  ('{q}', 'what', 'names no field, so that all items would be alike'),
  ('{q}', '{q!r}', "prompt: 'q!r' is no field"),
  ('{q}', '{q.upper()}', 'data.jsonl:1: field'),
  ('{q}', '{quest}', "data.jsonl:1: field 'quest' is missing"),
  ('{q}', '{meta}', 'data.jsonl:1: field'),
  ('{q}', '{options}', 'Name one of its elements, as in {{a[0]}}'),
  ('{q}', '{options[7]}', 'no element 7 in a list of 3'),
  ('{q}', '{q.x}', "'x' asked of 'What is zero-zero?'; expected an object"),
  ('options', 'q', "choices 'q': expected a list of texts"),
  ('options', '[a]', 'expected two or more'),
  ('options', '[a, a]', 'one of them is there twice'),
  (
    'label: gold',
    'label: q',
    "data.jsonl:1: label 'q' is 'What is zero-zero?'",
  ),
  ('label: gold', 'label: gold\nfew_shot: 30', 'split train, which has 22'),
  ('label: gold', 'label: gold\nfew_shot: {seed: 1}', '`n` is missing'),
  ('label: gold', 'label: gold\nmetric: ac', "7: metric: unknown value 'ac'"),
  (
    'label: gold',
    'label: gold\nsystem_prompt: x',
    'needs `chat_template: true`',
  ),
  ('label: gold', 'label: gold\nmax_tokens: 0', '7: max_tokens: expected 1 or'),
  (
    'label: gold',
    'label: gold\nsplit: {shares: {train: 1}}',
    'is missing; state',
  ),
  (
    'label: gold',
    'label: gold\nsplit:\n'
    '  shares: {train: 1, search: 0, select: 0, heldout: 0}',
    "3: data: the splits ['search', 'select', 'heldout'] are empty",
  ),
  ('label: gold', 'label: gold\nsplit: {field: meta}', 'no split'),
  ('data.jsonl', '{test: data.jsonl, heldout: data.jsonl}', 'there is another'),
  ('data.jsonl', '{search: data.jsonl}', 'there is nothing to cut'),
  (
    'data.jsonl',
    '{train: data.jsonl, tst: data.jsonl}',
    "unknown key 'tst'; did",
  ),
]


@pytest.mark.parametrize('old, new, message', CHANGED)
def test_mistakes_in_the_yaml(tmp_path, old, new, message):
  assert old in CHOICE
  path = _write(tmp_path, CHOICE.replace(old, new))
  with pytest.raises((ValueError, FileNotFoundError)) as caught:
    definitions.read(path)
  assert message.format(folder=tmp_path) in str(caught.value)
  assert str(tmp_path) in str(caught.value)


def _changed(line, text):
  lines = list(map(json.dumps, _rows()))
  lines[line - 1] = text
  return '\n'.join(lines)


@pytest.mark.parametrize(
  'data, message',
  [
    ('', 'data.jsonl is empty'),
    ('\n \n', 'data.jsonl is empty'),
    (_changed(3, '{"q": "a"'), 'data.jsonl:3: no JSON'),
    (
      _changed(4, '["q"]'),
      'data.jsonl:4: expected an object with named fields',
    ),
    (_changed(5, '{}'), "data.jsonl:5: field 'q' is missing"),
    (_changed(40, '{"q": null}'), "data.jsonl:40: field 'q' is None; expected"),
    (
      _changed(2, json.dumps(_rows()[1] | {'gold': 3})),
      "data.jsonl:2: label 'gold' is 3, none of the choices",
    ),
    (
      _changed(2, json.dumps(_rows()[1] | {'gold': True})),
      "data.jsonl:2: label 'gold' is True, none of the choices",
    ),
    (
      _changed(2, json.dumps(_rows()[1] | {'gold': 'rde 1'})),
      "(0 to 2); did you mean 'red 1'",
    ),
    (_changed(9, json.dumps(_rows()[3])), 'data.jsonl:9: the same item as'),
    (
      ('\n'.join(map(json.dumps, _rows())) + '\n{"q": "\u00fc"}').encode(
        'latin-1'
      ),
      'data.jsonl:41: byte 8 (0xfc) is not UTF-8',
    ),
    (
      '\n'.join(map(json.dumps, _rows())).encode('utf-16'),
      'data.jsonl:1: byte 1 (0xff) is not UTF-8; save the file as UTF-8',
    ),
  ],
)
def test_mistakes_in_the_data(tmp_path, data, message):
  path = _write(tmp_path, CHOICE, data=data)
  with pytest.raises(ValueError) as caught:
    definitions.read(path)
  assert message in str(caught.value)


def test_duplicates_may_be_dropped(tmp_path):
  rows = [*_rows(), _rows()[3], _rows()[4] | {'gold': 2}]
  path = _write(tmp_path, CHOICE + 'duplicates: drop\n', data=rows)
  texts = [i.text for items in _parts(path).values() for i in items]
  asked = f'Q: What is {_word(3)}?\nA:'
  assert texts.count(asked) == 1
  assert not any(_word(4) + '?' in text for text in texts)  # two answers
  assert len(texts) == N - 1


def test_a_file_that_is_missing(tmp_path):
  _write(tmp_path, CHOICE)
  with pytest.raises(FileNotFoundError, match=r"did you mean 'task\.yaml'"):
    definitions.read(tmp_path / 'tsk.yaml')


def test_a_byte_order_mark_is_no_mistake(tmp_path):
  lines = '\n'.join(map(json.dumps, _rows())).encode()
  path = _write(tmp_path, CHOICE, data=b'\xef\xbb\xbf' + lines)
  assert len(definitions.read(path).source.train) == N


def test_braces_in_templates():
  made = template.parse('{{{a}}} {b[-1].c} {d-e}')
  row = {'a': 1.5, 'b': [0, {'c': 'x'}], 'd-e': '{a}'}
  assert template.render(made, row) == '{1.5} x {a}'


def test_what_was_read_has_a_fingerprint(tmp_path):
  one = definitions.read(_write(tmp_path, CHOICE)).fingerprint
  same = definitions.read(_write(tmp_path, CHOICE, 'same')).fingerprint
  rows = _rows()
  rows[5]['q'] = 'another'
  other = definitions.read(_write(tmp_path, CHOICE, 'other', data=rows))
  assert len(one) == 64 and one == same != other.fingerprint
