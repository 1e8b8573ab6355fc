"Recipes: one default, one meaning of None, one table of rules."
import math,subprocess,sys
from dataclasses import asdict,fields
import pytest
from adaptprune.optim import fitted_reach
from adaptprune.recipe import Recipe,as_method,check_field,get_recipe,methods,parse_field,reads,recipes,retired,retired_values,rules
from toy import go

def test_there_is_one_default():
    assert get_recipe()==Recipe()==recipes['default'] and list(rules)==[f.name for f in fields(Recipe)]
    for r in recipes.values():
        assert get_recipe(r)==r
        for n in rules: assert check_field(n, getattr(r, n))==getattr(r, n)

def test_named_recipes_mean_what_they_did():
    "Fields of the records of each recipe"
    old = dict(method='mask', epochs=3., min_steps=0, batch_size=16, start='rank', spread=.05, t_s=1., step='sign', alpha=None, reach=1., beta=1e-3, gamma=0.,
        schedule='cubic', budget='global', dropout=None, teacher=None, distil_hidden=0., lr=1e-4)
    said = {'default': dict(start='activation', reach=None, dropout=0., min_steps=1000), 'features': dict(method='features'), 'finetune': dict(method='finetune'),
        'paper': dict(epochs=5, batch_size=8, start='normal', alpha=2e-5, beta=2e-5, gamma=2e-7, schedule='none', t_l=1e5),
        'movement': dict(start='constant', spread=1., t_s=0., step='adam', budget='matrix'),
        'edge-popup': dict(start='uniform', spread=.1, alpha=1e-2, t_s=0., step='adam', budget='matrix', schedule='constant'),
        'l0': dict(method='l0', spread=10., budget='matrix'), 'lora': dict(method='lora', lr=1e-3), 'bitfit': dict(method='bitfit', lr=3e-3)}
    for name,fields in said.items():
        r,want = recipes[name],{**old, **fields}
        for n in want:
            if n in (*reads[r.method], 'method') and not (n=='reach' and r.alpha is not None): assert getattr(r, n)==want[n], (name, n)
    assert recipes['distilled']==get_recipe(teacher='finetune', distil_hidden=30.)

def test_changes_leave_the_recipe():
    assert get_recipe('paper', epochs=None)==recipes['paper']
    assert get_recipe(Recipe(alpha=.1), beta=.2)==Recipe(alpha=.1, beta=.2) and set(asdict(Recipe()))==set(Recipe.__dataclass_fields__)
    assert get_recipe(epochs=2).min_steps==0<get_recipe().min_steps and get_recipe(epochs=2, min_steps=5).min_steps==5

def test_none_unsets():
    assert get_recipe('paper', alpha=None).alpha is None and get_recipe(dropout=None).dropout is None and get_recipe('distilled', reach=None).reach is None
    with pytest.raises(ValueError, match='no teacher does not read distil_hidden'): get_recipe('distilled', teacher=None)

@pytest.mark.parametrize('kw,error', [(dict(recipe='best'), "Unknown recipe 'best': use one of default, distilled, structured, paper, features, finetune"),
    (dict(alfa=1), "A recipe has no 'alfa': its fields are weights, start"), (dict(method='prune'), "Unknown method 'prune'"),
    (dict(schedule='sine'), "Unknown schedule 'sine': use one of cubic, constant, none"), (dict(epochs=0), 'epochs must be a number above 0, got 0'),
    (dict(batch_size=0), 'batch_size must be a whole number, 1 or more, got 0'), (dict(step='newton'), "Unknown step 'newton'"), (dict(budget='row'), "Unknown budget 'row'"),
    (dict(decay='step'), "Unknown decay 'step'"), (dict(start='magic'), "Unknown start 'magic'"), (dict(every=0), 'every must be a whole number, 1 or more, got 0'),
    (dict(t_l=-1), 't_l must be positive'), (dict(t_s=-1.), 't_s must be a number, 0 or more, got -1'), (dict(reach=-1.), 'reach must be a number above 0'),
    (dict(pooling='max'), "Unknown pooling 'max': use one of first, last, mean, or None"), (dict(teacher='mine'), "Unknown teacher 'mine': use one of finetune, or None"),
    (dict(dropout=1.), 'dropout must be a probability below 1'), (dict(distil=-1.), 'distil must be a fraction'), (dict(distil_t=0.), 'distil_t must be a number above 0'),
    (dict(distil_hidden=1.), 'no teacher does not read distil_hidden'), (dict(spread=math.nan), 'spread must be'), (dict(recovery=1), 'recovery must be true or false'),
    (dict(beta=True), 'beta must be a number'), (dict(epochs='3'), "epochs must be a number above 0, got '3'")], ids=str)
def test_bad_recipes(kw, error):
    with pytest.raises(ValueError, match=error): get_recipe(**kw)
    with pytest.raises(ValueError, match=error): go(**dict(kw))

@pytest.mark.parametrize('name', [*retired, *retired_values])
def test_retired_fields(name):
    value = retired_values.get(name, .5)
    with pytest.raises(ValueError, match=f"{name}.* was retired: it gained at most .006"): get_recipe(**{name: value})

@pytest.mark.parametrize('recipe,field,value', [('default', 'lr', 1e-3), ('default', 'distil', .3), ('features', 'spread', .1), ('features', 'teacher', 'finetune'), ('finetune', 'every', 5),
    ('random', 'start', 'rank'), ('magnitude', 'recovery', False), ('imp', 'teacher', 'finetune'), ('l0', 't_s', 2.), ('lora', 'weights', 'encoder'), ('bitfit', 'weight_decay', .1)])
def test_a_field_that_nothing_reads(recipe, field, value):
    with pytest.raises(ValueError, match=f"does not read {field}, got {value!r}: leave it out"): get_recipe(recipe, **{field: value})

def test_every_method_names_its_fields():
    assert set(reads)==set(methods) and all(set(r)<=set(rules) for r in reads.values())
    assert get_recipe('distilled', lr=1e-3).lr==1e-3 and set().union(*reads.values())|{'distil', 'distil_t', 'distil_hidden'}==set(rules)

@pytest.mark.parametrize('name,text,value', [('epochs', '3', 3.), ('every', '5', 5), ('dropout', 'none', None), ('teacher', 'none', None), ('decay', 'none', 'none'), ('schedule', 'none', 'none'),
    ('recovery', 'FALSE', False), ('t_l', 'inf', math.inf), ('alpha', '2e-5', 2e-5), ('weights', '*attention*', '*attention*')])
def test_text(name, text, value): assert parse_field(name, text)==value

@pytest.mark.parametrize('name,text,says', [('every', '2.5', "every takes a whole number, got '2.5'"), ('recovery', 'maybe', 'recovery takes true or false'), ('beta', 'none', "beta takes a number, got 'none'"),
    ('margin', '.1', 'retired'), ('alfa', '1', "no 'alfa'"), ('epochs', '-1', 'above 0, got -1.0')])
def test_bad_text(name, text, says):
    with pytest.raises(ValueError, match=says): parse_field(name, text)

def test_poolings_are_the_heads():
    from adaptprune.head import poolings
    assert rules['pooling'].names==poolings

def test_phases():
    r = as_method(get_recipe('magnitude', beta=.1, lr=1e-3, epochs=2), 'finetune')
    assert (r.method,r.beta,r.lr,r.epochs)==('finetune', .1, 1e-3, 2.) and as_method(r, 'features').beta==.1

def test_pure():
    code = "import sys; import adaptprune.recipe,adaptprune.methods,adaptprune.loop; print([m for m in ('transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()=='[]'

@pytest.mark.parametrize('s,far', [(.05, 2.), (.2, 2.), (.3, 4/3), (.4, 1.), (.9, 1.), (0., 2.)])
def test_thetas_travel_further_where_little_is_pruned(s, far):
    from adaptprune.optim import fitted_alpha
    assert fitted_reach(Recipe(), s)==pytest.approx(far)==fitted_alpha(Recipe(), 50, s)/fitted_alpha(Recipe(reach=1.), 50, s)
