"What is packaged is what is here, and it is quick to import."
import ast,subprocess,sys,tarfile,tomllib,zipfile
from configparser import ConfigParser
from pathlib import Path
from shutil import copytree,ignore_patterns
import pytest,yaml
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
    assert p['license']=='Apache-2.0' and cfg['license']=='apache2'
    assert p['authors'][0]['name']==cfg['author'] and cfg['author'] in cfg['copyright']
    assert 'Apache License' in (root/'LICENSE').read_text()

def test_import_is_light():
    heavy = "{'transformers','datasets','accelerate','sklearn','scipy','matplotlib'}"
    assert ast.literal_eval(python(f"import sys,adaptprune; print(sorted({heavy} & set(sys.modules)))"))==[]

@pytest.mark.parametrize('mod', ['mask','layer','theory','loss','optim'])
def test_lower_floors_need_torch_alone(mod):
    if not (root/'adaptprune'/f'{mod}.py').exists(): pytest.skip(f'no module {mod}')
    assert ast.literal_eval(python(f"import sys,adaptprune.{mod}; print(sorted({{'transformers','datasets'}} & set(sys.modules)))"))==[]

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
    assert {'adaptprune/__init__.py','adaptprune/_modidx.py'} <= lib
    assert lib <= wheel and lib <= sdist
    assert {'LICENSE','README.md','pyproject.toml'} <= sdist
    info = f'adaptprune-{adaptprune.__version__}.dist-info'
    assert f'{info}/licenses/LICENSE' in wheel and f'{info}/entry_points.txt' in wheel
    assert not {n.split('/')[0] for n in wheel} - {'adaptprune',info}
