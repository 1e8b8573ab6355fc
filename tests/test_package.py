"What is packaged is what is here, and it is quick to import."
import ast,inspect,pydoc,re,subprocess,sys,tarfile,tomllib,zipfile
from configparser import ConfigParser
from pathlib import Path
from shutil import copytree,ignore_patterns
import pytest,yaml
from nbdev.config import update_version
import adaptprune

root = Path(__file__).resolve().parent.parent
cfg = ConfigParser()
cfg.read(root/'settings.ini')
cfg = cfg['DEFAULT']
project = tomllib.loads((root/'pyproject.toml').read_text())

def python(code):
    "What `code` prints in a new interpreter"
    return subprocess.run([sys.executable,'-c',code], cwd=root, check=True, capture_output=True, text=True).stdout

def test_version(): assert adaptprune.__version__==cfg['version']

def test_settings_agree():
    p = project['project']
    assert (p['name'],p['description'],p['requires-python'])==(cfg['lib_name'],cfg['description'],f">={cfg['min_python']}")
    assert p['license'].split(' AND ')==['Apache-2.0', 'CC-BY-4.0', 'CC-BY-SA-4.0'] and cfg['license']=='apache2'
    assert p['authors'][0]['name']==cfg['author'] and cfg['author'] in cfg['copyright']
    assert 'Apache License' in (root/'LICENSE').read_text()

def test_import_is_light():
    heavy = "{'torch','numpy','fastcore','transformers','datasets','accelerate','sklearn','scipy','matplotlib'}"
    assert ast.literal_eval(python(f"import sys,adaptprune; print(sorted({heavy} & set(sys.modules)))"))==[]

torch_alone = 'anatomy','mask','theory','layer','loss','sparsity','scores','kernels','optim','loop'

def test_lower_floors_need_torch_alone():
    "From the lowest up, so the first that takes more is named"
    code = f"""
import importlib,sys
def heavy(mod):
    importlib.import_module(f'adaptprune.{{mod}}')
    return sorted({{'transformers', 'datasets'}} & set(sys.modules))
print({{mod: heavy(mod) for mod in {torch_alone}}})
"""
    assert {k: v for k,v in ast.literal_eval(python(code)).items() if v}=={}

def test_adapt_needs_torch_alone():
    "A torch module is adapted where neither transformers nor datasets can be imported"
    code = """
import sys
for name in ('transformers', 'datasets'): sys.modules[name] = None
import torch,adaptprune as ap
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
batches = [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(4)]
def loss_fn(net, b): return torch.nn.functional.cross_entropy(net(b[0]), b[1])
print(ap.adapt(net, batches, loss_fn, sparsity=.5, max_steps=8, progress=False).mask.sparsity)
"""
    assert float(python(code))==.5

@pytest.mark.parametrize('name', adaptprune.__all__)
def test_public_names(name):
    "Each is there, is listed, and says what it is"
    value = getattr(adaptprune, name)
    assert name in dir(adaptprune) and value.__doc__ and value.__module__.startswith('adaptprune.')

def test_public_names_are_those_that_type_checkers_see():
    tree = ast.parse((root/'adaptprune'/'__init__.py').read_text())
    seen = {(n.module, a.name) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level for a in n.names}
    assert seen=={(adaptprune._home[n], n) for n in adaptprune.__all__} and adaptprune.__all__==sorted(adaptprune.__all__)

def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'adopt'.*adapt_task"): adaptprune.adopt
    assert not hasattr(adaptprune, '__wrapped__')

def test_modules_are_still_modules():
    "A public name hides no module"
    assert not {p.stem for p in (root/'adaptprune').glob('*.py')} & set(adaptprune.__all__)

@pytest.mark.parametrize('path, params', [
    ('TaskMask.save_pretrained', ['folder', 'reference']), ('TaskMask.from_pretrained', ['name']), ('TaskMask.push_to_hub', ['repo_id']),
    ('MultiTask.use', ['name']),
    ('MaskOptimizer.step', []), ('adapt', ['model', 'sparsity']), ('adapt_task', ['task', 'sparsity'])])
def test_help_shows_the_parameters(path, params):
    value = adaptprune
    for name in path.split('.'): value = getattr(value, name)
    text = pydoc.render_doc(value, renderer=pydoc.plaintext)
    assert 'functools' not in text and '(*args, **kwargs)' not in text and inspect.getdoc(value)
    assert all(re.search(rf'\b{p}\b', text.split('\n\n')[1]) for p in params), text

def test_export_keeps_the_public_names(tmp_path):
    "nbdev writes the version into `__init__.py`, and leaves the rest of it alone"
    lib = tmp_path/'adaptprune'
    lib.mkdir()
    src = (root/'adaptprune'/'__init__.py').read_text()
    (lib/'__init__.py').write_text(src.replace(adaptprune.__version__, '0.0.0'))
    update_version(lib)
    assert (lib/'__init__.py').read_text()==src

def test_sidebar():
    secs = yaml.safe_load((root/'nbs'/'sidebar.yml').read_text())['website']['sidebar']['contents']
    listed = [o for s in secs for o in ([s] if isinstance(s, str) else [s['href']] if 'href' in s else s['contents'])]
    here = [p.relative_to(root/'nbs').as_posix() for p in (root/'nbs').rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(root).parts)]
    assert sorted(listed)==sorted(here), 'run `make export`'

@pytest.fixture(scope='session')
def built(tmp_path_factory):
    "The names in the sdist and in the wheel made from it, without the folder that holds the former"
    tmp = tmp_path_factory.mktemp('build')
    skip = ignore_patterns('.*', '_docs', '_site', '_proc', 'build', 'dist', '*.egg-info', '__pycache__', 'demo-out', 'runs', 'results', 'nbs')
    copytree(root, tmp/'src', ignore=skip)
    subprocess.run([sys.executable,'-m','build','-q','--no-isolation','--outdir',tmp/'dist',tmp/'src'], check=True, capture_output=True, text=True)
    with tarfile.open(next((tmp/'dist').glob('*.tar.gz'))) as t: sdist = {n.split('/',1)[1] for n in t.getnames() if '/' in n}
    with zipfile.ZipFile(next((tmp/'dist').glob('*.whl'))) as z: wheel = set(z.namelist())
    return sdist,wheel

@pytest.mark.slow
def test_sdist_and_wheel(built):
    sdist,wheel = built
    lib = {p.relative_to(root).as_posix() for p in (root/'adaptprune').rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    assert {'adaptprune/__init__.py','adaptprune/__main__.py','adaptprune/_modidx.py','adaptprune/py.typed'} <= lib
    assert lib <= wheel and lib <= sdist
    assert {'LICENSE','README.md','pyproject.toml'} <= sdist
    info = f'adaptprune-{adaptprune.__version__}.dist-info'
    assert f'{info}/licenses/LICENSE' in wheel and f'{info}/licenses/adaptprune/data/ud-ewt/LICENSE.txt' in wheel and f'{info}/entry_points.txt' in wheel
    assert not {n.split('/')[0] for n in wheel} - {'adaptprune',info}

kernel = '''
import sys, types
sys.modules['ipywidgets'] = None
shell = types.SimpleNamespace(config={'IPKernelApp': {}})
sys.modules.update({n: types.ModuleType(n) for n in ('ipykernel', 'ipykernel.zmqshell', 'IPython')})
sys.modules['IPython'].get_ipython = lambda: shell
%s
import tqdm.auto
'''

def test_no_red_warning_of_bars_in_a_notebook():
    "Without ipywidgets tqdm tells of it in red, under the first cell that imports anything"
    def said(first): return subprocess.run([sys.executable, '-c', kernel % first], capture_output=True, text=True, cwd=root).stderr
    assert 'IProgress not found' in said('') and said('import adaptprune')==''
