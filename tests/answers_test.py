"""Answers in texts: patterns, comparison, refusals."""

import string

import hypothesis
import pytest
from hypothesis import strategies as st

from automerge_jax.tasks import answers
from automerge_jax.tasks.answers import Reading, Rule

TEXT = 'So 3 + 4 = 7.\nThe answer is 1,200. Thus: #### 12 apples, #### 13'


@pytest.mark.parametrize(
  ('rule', 'answer'),
  [
    (Rule(), TEXT),
    (Rule(pattern=r'\d+'), '3'),
    (Rule(pattern=r'\d+', match='last'), '13'),
    (Rule(pattern=r'#### (\d+)( \w+)?'), '12'),
    (Rule(pattern=r'#### (\d+)( \w+)?', group=2), 'apples'),
    (Rule(pattern=r'#### (\d+)', group=0), '#### 12'),
    (Rule(pattern=r'(yes)|answer is ([\d,]+)'), '1,200'),
    (Rule(pattern=r'#### (\d+)( pears)?', group=2, match='last'), None),
    (Rule(pattern='maybe'), None),
    (Rule(pattern=r'answer(\s*)is'), None),
    (Rule(pattern=r'=\s*(?P<sum>\d+)'), '7'),
  ],
)
def test_extraction(rule, answer):
  assert answers.extract(rule, TEXT) == answer


@pytest.mark.parametrize(
  ('rule', 'found', 'accepted', 'right'),
  [
    (Rule(), ' Paris \n', ('Paris',), True),
    (Rule(), 'New   York', ('New York',), True),
    (Rule(), 'paris', ('Paris',), False),
    (Rule(ignore_case=True), 'STRASSE', ('Straße',), True),
    (Rule(), 'Paris.', ('Paris',), False),
    (Rule(ignore_punctuation=True), '"Paris".', ('Paris',), True),
    (Rule(), 'Rome', ('Paris', 'Rome'), True),
    (Rule(), '1,200', ('1200',), False),
    (Rule(numeric=True), '1,200.00', ('1200',), True),
    (Rule(numeric=True), '$1,200.', ('1200',), True),
    (Rule(numeric=True), '-.5', ('-0.50',), True),
    (Rule(numeric=True), '+5e3', ('5000',), True),
    (Rule(numeric=True), '12,00', ('1200',), False),
    (Rule(numeric=True), 'seven', ('seven',), True),
    (Rule(numeric=True), '0.1', ('0.10000000000000001',), False),
    (Rule(numeric=True), '7 8', ('78',), False),
    (Rule(ignore=(r'\$', r'(?s).*#### ')), 'x #### $5', ('5',), True),
    (Rule(ignore=(r'\W',)), 'a-b', ('a b',), True),
    (Rule(pattern='a|b'), 'c', ('c',), False),
    (Rule(), ' \n', ('x',), False),
  ],
)
def test_comparison(rule, found, accepted, right):
  assert answers.read(rule, found, accepted).right is right


@hypothesis.given(
  text=st.text(max_size=60),
  case=st.booleans(),
  marks=st.booleans(),
  numeric=st.booleans(),
)
def test_an_answer_equals_itself_and_its_spacing_does_not_count(
  text, case, marks, numeric
):
  rule = Rule(ignore_case=case, ignore_punctuation=marks, numeric=numeric)
  found = answers.read(rule, f'\n {text}\t ', (text,))
  assert found == Reading(text.strip() or None, bool(text.strip()))


@hypothesis.given(whole=st.integers(-(10**12), 10**12), zeros=st.integers(0, 4))
def test_numbers_in_any_spelling_are_equal(whole, zeros):
  rule = Rule(numeric=True, pattern=r'=\s*(.+)$')
  spelt = f'{whole:,}.' + '0' * zeros
  assert answers.read(rule, f'x = {spelt}', (str(whole),)).right
  assert not answers.read(rule, f'x = {spelt}', (str(whole + 1),)).right


@hypothesis.given(
  parts=st.lists(st.text(string.ascii_letters + ' ', max_size=5), min_size=1),
  numbers=st.data(),
)
def test_first_and_last_match(parts, numbers):
  drawn = [numbers.draw(st.integers(0, 999)) for _ in parts]
  text = ''.join(f'{a}{b};' for a, b in zip(parts, drawn, strict=True))
  first = answers.extract(Rule(pattern=r'(\d+);'), text)
  last = answers.extract(Rule(pattern=r'(\d+);', match='last'), text)
  assert (first, last) == (str(drawn[0]), str(drawn[-1]))


def test_text_is_read_up_to_a_limit():
  text = 'x' * answers.LONGEST + '7'
  assert answers.read(Rule(pattern=r'\d'), text, ('7',)) == Reading(None, False)
  assert answers.read(Rule(pattern=r'\d'), text[1:], ('7',)).right


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'pattern': '(a'}, 'no regular expression'),
    ({'pattern': r'(\w+\s?)*$'}, 'nest'),
    ({'ignore': ('(a+)+$',)}, 'nest'),
    ({'pattern': 'a' * 2000}, '1000'),
    ({'pattern': '(a)', 'group': 2}, 'groups 0 to 1'),
    ({'match': 'best'}, "'first' or 'last'"),
    ({'pattern': r'\p{L}+'}, 'no regular expression'),
  ],
)
def test_refusals(fields, message):
  with pytest.raises(ValueError, match=message):
    Rule(**fields)


def test_a_pattern_that_goes_astray_on_a_text_is_an_error(monkeypatch):
  monkeypatch.setattr(answers, '_SECONDS', 0.1)
  rule = Rule(pattern=r'(?:[\xe0-\xff]+)+$')
  with pytest.raises(RuntimeError, match='do not nest'):
    answers.extract(rule, 'é' * 5000 + 'x')
