"""Random recipes over tiny checkpoints, for comparisons with mergekit.

Plain Python without the library, so that a peer's environment can draw them.
"""

import json
import random

LAYERS = {'a': 4, 'b': 4, 'c': 4, 'base': 4, 'tied': 4, 'deep': 6}
METHODS = {  # (models besides the base: least, most), whether it needs a base
  'linear': (1, 3, False),
  'karcher': (1, 3, False),
  'passthrough': (1, 1, False),
  'slerp': (1, 1, True),
  'nearswap': (1, 1, True),
  'arcee_fusion': (1, 1, True),
  'model_stock': (2, 3, True),
  'sce': (1, 3, True),
  'ram': (1, 3, True),
  'ramplus_tl': (1, 3, True),
  'task_arithmetic': (1, 3, True),
  'ties': (1, 3, True),
  'dare_linear': (1, 3, True),
  'dare_ties': (1, 3, True),
  'breadcrumbs': (1, 3, True),
  'breadcrumbs_ties': (1, 3, True),
  'della': (1, 3, True),
  'della_linear': (1, 3, True),
  'nuslerp': (2, 2, None),
  'multislerp': (1, 3, None),
}
_TASK = {
  'weight': 'model',
  'density': 'model',
  'normalize': 'flag',
  'rescale': 'flag',
  'lambda': 'shared',
}
PARAMETERS = {
  'linear': {'weight': 'model', 'normalize': 'flag'},
  'karcher': {'max_iter': 'integer', 'tol': 'shared'},
  'passthrough': {'scale': 'model'},
  'slerp': {'t': 'shared'},
  'nearswap': {'t': 'shared'},
  'arcee_fusion': {},
  'model_stock': {'filter_wise': 'flag'},
  'sce': {'select_topk': 'shared'},
  'ram': {'epsilon': 'shared'},
  'ramplus_tl': {'r': 'shared', 'alpha': 'shared', 'epsilon': 'shared'},
  'task_arithmetic': {k: v for k, v in _TASK.items() if k != 'rescale'},
  'ties': _TASK,
  'dare_linear': _TASK,
  'dare_ties': _TASK,
  'breadcrumbs': _TASK | {'gamma': 'model'},
  'breadcrumbs_ties': _TASK | {'gamma': 'model'},
  'della': _TASK | {'epsilon': 'model'},
  'della_linear': _TASK | {'epsilon': 'model'},
  'nuslerp': {
    'weight': 'model',
    'nuslerp_row_wise': 'flag',
    'nuslerp_flatten': 'flag',
  },
  'multislerp': {'weight': 'model', 'normalize_weights': 'flag'},
}
_REQUIRED = ('weight', 't')
_FILTERS = (
  *('self_attn', 'mlp', 'layers.1.', 'layers.0', 'layers.2.mlp', 'embed'),
  *('lm_head', 'norm', 'q_proj', '*', '', 'nowhere', 'model', '3'),
)


def names(model: str) -> list[str]:
  """Stored names of one of the Llama-like checkpoints."""
  parts = (
    *('self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'),
    *('self_attn.o_proj', 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj'),
    *('input_layernorm', 'post_attention_layernorm'),
  )
  found = ['model.embed_tokens.weight']
  for layer in range(LAYERS[model]):
    found += [f'model.layers.{layer}.{part}.weight' for part in parts]
  found.append('model.norm.weight')
  return found + ([] if model == 'tied' else ['lm_head.weight'])


def draw(seed: int, count: int) -> list[str]:
  """`count` recipes as YAML (JSON is YAML), methods in turn."""
  source = random.Random(seed)
  methods = list(METHODS)
  return [
    json.dumps(_document(source, methods[i % len(methods)]), indent=1)
    for i in range(count)
  ]


def _document(draw: random.Random, method: str) -> dict:
  least, most, needs_base = METHODS[method]
  has_base = needs_base or (needs_base is None and draw.random() < 0.5)
  base = 'base' if has_base else None
  others = draw.sample(['a', 'b', 'c', 'tied'], draw.randint(least, most))
  form = draw.choice(['models', 'slices', 'slices', 'modules'])
  document: dict = {'merge_method': method}
  if base:
    document['base_model'] = base
  elif method == 'linear' and draw.random() < 0.2:
    document['base_model'] = 'base'  # becomes one more model under `models`
  if form == 'slices':
    body = {'slices': _slices(draw, method, others, base)}
  else:
    body = {'models': _models(draw, method, others, base)}
  top = _parameters(draw, method, ('model', 'flag', 'shared', 'integer'), 0.6)
  if form == 'modules':
    inner = _parameters(draw, method, ('model', 'flag', 'shared'), 0.3)
    document['modules'] = {'default': body | _if('parameters', inner)}
  else:
    document |= body
  for name in _REQUIRED:  # mostly complete, sometimes not
    if name in PARAMETERS[method] and name not in top and draw.random() < 0.85:
      top[name] = _value(draw, 'shared')
  return document | _if('parameters', top)


def _models(draw, method, others, base):
  listed = [_source(draw, method, model) for model in others]
  if base and draw.random() < 0.5:
    listed.insert(draw.randint(0, len(listed)), {'model': base})
  return listed


def _slices(draw, method, others, base):
  least, _, _ = METHODS[method]
  parts = []
  for _ in range(draw.randint(1, 3)):
    length = draw.randint(1, 4)
    models = others
    if draw.random() < 0.3:
      models = draw.sample(others, draw.randint(least, len(others)))
    if draw.random() < 0.2 and len(models) == len(others):
      models = [*models[:-1], 'deep']

    def span(model, length=length):
      start = draw.randint(0, LAYERS[model] - length)
      return {'layer_range': [start, start + length]}

    sources = [_source(draw, method, m) | span(m) for m in models]
    part: dict = {}
    if base:
      own = base
      if draw.random() < 0.3:
        own = draw.choice([m for m in ('base', 'c', 'b') if m not in models])
        part['base_model'] = own
      sources.insert(draw.randint(0, len(sources)), {'model': own} | span(own))
    kinds = ('model', 'flag', 'shared')
    part |= _if('parameters', _parameters(draw, method, kinds, 0.3))
    parts.append({'sources': sources} | part)
  return parts


def _source(draw, method, model):
  own = _parameters(draw, method, ('model',), 0.6)
  return {'model': model} | _if('parameters', own)


def _parameters(draw, method, kinds, chance):
  return {
    name: _setting(draw, kind)
    for name, kind in PARAMETERS[method].items()
    if kind in kinds and draw.random() < chance
  }


def _setting(draw, kind):
  form = draw.random()
  if form < 0.4 or kind == 'integer':
    return _value(draw, kind)
  if form < 0.5:
    return _condition(draw, kind)
  return [_condition(draw, kind) for _ in range(draw.randint(1, 4))]


def _condition(draw, kind):
  entry = {'value': _value(draw, kind)}
  return entry | (
    {'filter': draw.choice(_FILTERS)} if draw.random() < 0.8 else {}
  )


def _value(draw, kind):
  if kind == 'integer':
    return draw.choice([3, '7', 10])
  if draw.random() < 0.5:
    return _scalar(draw, kind)
  return [_scalar(draw, kind) for _ in range(draw.randint(0, 4))]


def _scalar(draw, kind):
  if kind == 'flag':
    return draw.choice([True, False, 0, 1, 'true', 'no'])
  return draw.choice(
    [
      *(round(draw.uniform(-1, 2), 3), draw.randint(0, 2), draw.random()),
      *('1e-3', '0.25', True),
    ]
  )


def _if(key, value):
  return {key: value} if value else {}
