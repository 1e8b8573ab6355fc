"The Hub, as far as it can be had without one: a server on this machine that speaks its HTTP API, and clients in processes of their own"
import hashlib,json,socket
from pathlib import Path
import pytest,torch
from hub_server import Hub,Repo,client_env
from nursery import nursery
from test_artifact import net,reseal,task
from adaptprune.artifact import TaskMask,read_config
from adaptprune.mask import Mask

here = Path(__file__).resolve().parent
prelude = '''
import json,os
from adaptprune.artifact import TaskMask
def attempt(f, *args, **kw):
    try: f(*args, **kw)
    except Exception as e: return type(e).__name__, str(e)
    return 'no error', ''
def facts(tm): return dict(mask={n: m.int().tolist() for n,m in tm.mask.items()}, head={n: t.tolist() for n,t in tm.head.items()}, info=tm.info)
'''

def facts(tm): return json.loads(json.dumps(dict(mask={n: m.int().tolist() for n,m in tm.mask.items()}, head={n: t.tolist() for n,t in tm.head.items()}, info=tm.info)))

@pytest.fixture
def hub():
    with Hub() as h: yield h

@pytest.fixture(scope='module')
def fork():
    "Forks of a process that has imported torch and adaptprune, but not yet huggingface_hub, which reads its variables when imported"
    imports = "import torch,adaptprune.artifact\nassert 'huggingface_hub' not in sys.modules"
    with nursery(imports, cwd=here.parent) as run: yield run

@pytest.fixture
def client(hub, fork, tmp_path):
    "A function that runs code in a new process which takes our server for the Hub; gives what it printed last, as JSON"
    def run(code, login=True, url=None, home='home', **env):
        env = dict(client_env(url or hub.url, tmp_path/home, login), **env)
        hub.seen.clear()
        code = fork(prelude+code, tmp_path, env=env)
        assert code==0, (tmp_path/'stderr').read_text()[-3000:]
        return json.loads((tmp_path/'stdout').read_text().splitlines()[-1])
    return run

def put(hub, name, tm, tmp_path, **kw):
    "Lay a mask on the server, without the client"
    folder = tm.save_pretrained(tmp_path/'put'/name.replace('/', '_'), **kw)
    hub.repos.setdefault(name, Repo())
    return hub.repos[name].commit({f.name: f.read_bytes() for f in folder.iterdir() if f.name[0]!='.'})

def gets(hub, what): return [p for m,p,_ in hub.seen if m=='GET' and what in p]

def test_push_then_pull(hub, client, tmp_path):
    tm = task(); tm.base['model'] = 'google-bert/bert-base-uncased'; tm.save_pretrained(tmp_path/'m')
    got = client("tm = TaskMask.from_pretrained('m'); print(json.dumps([tm.push_to_hub('someone/toy'), tm.model_card('someone/toy')]))")
    repo = hub.repos['someone/toy']; files = repo.files('main')
    assert got[0]==f"{hub.url}/someone/toy/commit/{repo.resolve('main')}" and not repo.private
    assert sorted(files)==['.gitattributes', 'README.md', 'adaptprune.json', read_config(tmp_path/'m')['data']['file']] and len(repo.commits)==2, 'one commit'
    assert files['README.md'].decode()==got[1] and 'base_model: google-bert/bert-base-uncased' in got[1]
    assert all(files[f.name]==f.read_bytes() for f in (tmp_path/'m').glob('[am]*'))
    assert client("print(json.dumps(facts(TaskMask.from_pretrained('someone/toy'))))", login=False)==facts(tm)
    assert len(gets(hub, '/resolve/'))==len(gets(hub, '/cdn/'))==1 and not gets(hub, 'README')
    assert not [a for _,p,a in hub.seen if '/cdn/' in p and a], 'no token goes to another host'

def test_a_structure_goes_to_the_hub_and_back(hub, client, tmp_path):
    from test_structured_files import made
    tm = made()[2]
    tm.save_pretrained(tmp_path/'m')
    client("print(json.dumps(TaskMask.from_pretrained('m').push_to_hub('someone/compact')))")
    files = hub.repos['someone/compact'].files('main')
    assert f"{tm.describe()['removed']:.1%} of the multiply-accumulates" in files['README.md'].decode()
    assert all(files[f.name]==f.read_bytes() for f in (tmp_path/'m').glob('[am]*'))
    got = client("tm = TaskMask.from_pretrained('someone/compact'); print(json.dumps([tm.structure.to_dict(), facts(tm)]))", login=False)
    assert got==[tm.structure.to_dict(), facts(tm)]

def test_cache_and_offline(hub, client, tmp_path):
    put(hub, 'someone/toy', task(), tmp_path)
    again = "print(json.dumps([facts(TaskMask.from_pretrained('someone/toy', **kw)) for kw in ({}, dict(local_files_only=True))]))"
    assert client(again)==[facts(task())]*2
    n = len(hub.seen); assert len(gets(hub, '/resolve/'))==len(gets(hub, '/cdn/'))==1
    assert client(again)==[facts(task())]*2
    assert not gets(hub, '/resolve/') and not gets(hub, '/cdn/') and len(hub.seen)<n, 'the second time only asks which commit is newest'
    new = put(hub, 'someone/toy', task(1), tmp_path)
    assert client("print(json.dumps(facts(TaskMask.from_pretrained('someone/toy'))))")==facts(task(1)), new

offline = """
print(json.dumps([attempt(TaskMask.from_pretrained, 'someone/toy'), attempt(TaskMask.from_pretrained, 'someone/other', local_files_only=True), attempt(TaskMask.from_pretrained, 'someone/toy', revision='old')]))
"""

def test_offline_switch(hub, client, tmp_path):
    put(hub, 'someone/toy', task(), tmp_path)
    def go(code): return client(code, HF_HUB_OFFLINE='1')
    for kind,text in go(offline): assert kind=='OSError' and 'is not in the cache' in text and 'fetch it once online' in text and 'someone/' in text and '\n' not in text
    assert not hub.seen, 'nobody was asked'
    client("TaskMask.from_pretrained('someone/toy'); print(1)")
    first,other,old = go(offline)
    assert first[0]=='no error' and "'someone/other'" in other[1] and "(revision 'old')" in old[1] and not hub.seen
    data = next((tmp_path/'home').rglob('snapshots/*/mask-*')); data.unlink()
    kind,text = go(offline)[0]
    assert kind=='OSError' and 'not all of it' in text, 'half a copy is no copy'

def test_revisions(hub, client, tmp_path):
    a = put(hub, 'someone/toy', task(0), tmp_path); hub.repos['someone/toy'].refs['v1'] = a
    put(hub, 'someone/toy', task(1), tmp_path)
    got = client(f"print(json.dumps([facts(TaskMask.from_pretrained('someone/toy', revision=r))['info']['task'] for r in ('v1', '{a}', 'main', None)]))")
    assert got==['toy0', 'toy0', 'toy1', 'toy1']
    kind,text = client("print(json.dumps(attempt(TaskMask.from_pretrained, 'someone/toy', revision='v9')))")
    assert kind=='FileNotFoundError' and "(revision 'v9')" in text and 'branch, a tag or a commit' in text and '\n' not in text

pull = "print(json.dumps(attempt(TaskMask.from_pretrained, 'someone/toy')))"

def test_what_cannot_be_had(hub, client, tmp_path):
    def says(kind, *words, **kw):
        got = client(pull, **kw)
        assert got[0]==kind and all(w in got[1] for w in ("'someone/toy'", *words)) and '\n' not in got[1] and len(got[1])<500, got
    says('FileNotFoundError', 'not on the Hub, or is private', 'check the id')
    says('FileNotFoundError', 'hf auth login', login=False)
    put(hub, 'someone/toy', task(), tmp_path); hub.repos['someone/toy'].private = True
    says('FileNotFoundError', 'private', 'hf auth login', login=False)
    says('OSError', 'private', 'token', login='hf_not_a_token_of_anyone')
    assert client(pull, home='other')[0]=='no error'
    hub.repos['someone/toy'].private,hub.repos['someone/toy'].gated = False,True
    says('FileNotFoundError', 'is gated', f'{hub.url}/someone/toy')
    hub.repos['someone/toy'] = Repo(); hub.repos['someone/toy'].commit({'config.json': b'{}', 'model.safetensors': b'x'*100})
    says('FileNotFoundError', 'holds no mask file', 'adaptprune.json')
    assert not gets(hub, 'model.safetensors'), 'what is not ours is not fetched'

def test_server_down(hub, client, tmp_path):
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); nobody = f'http://127.0.0.1:{s.getsockname()[1]}'
    kind,text = client(pull, url=nobody)
    assert kind=='OSError' and f"'someone/toy'" in text and nobody in text and 'try again, or give a folder' in text and '\n' not in text
    put(hub, 'someone/toy', task(), tmp_path)
    assert client(pull)[0]=='no error'
    assert client(pull, url=nobody)[0]=='no error', 'what is cached is used'
    kind,text = client("print(json.dumps(attempt(TaskMask.from_pretrained('someone/toy').push_to_hub, 'someone/new')))", url=nobody)
    assert kind=='OSError' and "did not take 'someone/new'" in text and 'Try again' in text

@pytest.mark.slow
def test_server_breaks(hub, client, tmp_path):
    put(hub, 'someone/toy', task(), tmp_path)
    hub.broken = 500
    kind,text = client(pull)
    assert kind=='OSError' and "'someone/toy'" in text and '500' in text and '\n' not in text
    hub.broken,hub.cut = None,True
    kind,text = client(pull)
    assert kind=='OSError' and "'someone/toy'" in text and 'try again' in text and '\n' not in text
    hub.cut = False
    assert client(pull)[0]=='no error', 'half a download is not kept as a whole one'

def test_pushes_that_fail(hub, client, tmp_path):
    task().save_pretrained(tmp_path/'m')
    push = "tm = TaskMask.from_pretrained('m'); print(json.dumps([attempt(tm.push_to_hub, n) for n in ('someone/toy', 'else/toy', 'toy', 'a/b/c', '../x')]))"
    (k,mine),(_,theirs),*bad = client(push, login=False)
    assert k=='OSError' and 'hf auth login' in mine and "'someone/toy'" in mine and not hub.repos
    assert all(k=='ValueError' and 'owner/name' in t for k,t in bad)
    put(hub, 'someone/toy', task(1), tmp_path); before = hub.repos['someone/toy'].resolve('main')
    hub.refuse_commits = True
    (k,mine),(k2,theirs),*_ = client(push)
    assert k==k2=='OSError' and 'Storage limit' in mine and "don't have the rights" in theirs and '\n' not in mine+theirs
    assert hub.repos['someone/toy'].resolve('main')==before and list(hub.repos)==['someone/toy'], 'what was there is untouched'

def test_push_replaces(hub, client, tmp_path):
    "A second push is one commit; the old data file goes and strangers stay; private repositories are made on demand"
    put(hub, 'someone/toy', task(0), tmp_path); r = hub.repos['someone/toy']; r.commit({'notes.txt': b'mine', 'mask-mine.safetensors': b'precious'}); n = len(r.commits)
    task(1).save_pretrained(tmp_path/'m')
    client("tm = TaskMask.from_pretrained('m'); tm.push_to_hub('someone/toy'); tm.push_to_hub('someone/secret', private=True, token=os.environ.pop('HF_TOKEN')); print(1)")
    assert len(r.commits)==n+1 and len([f for f in r.files('main') if f.startswith('mask-')])==2 and r.files('main')['notes.txt']==b'mine' and 'mask-mine.safetensors' in r.files('main')
    assert hub.repos['someone/secret'].private
    assert client("print(json.dumps(facts(TaskMask.from_pretrained('someone/toy'))))")==facts(task(1))

def test_push_relative_to_the_base(hub, client, tmp_path):
    "A mask stored as differences from the base can be pushed without the base"
    from adaptprune.artifact import magnitude_mask
    base = net(); tm = TaskMask(Mask({'0.weight': magnitude_mask(base[0].weight, 700), '2.weight': magnitude_mask(base[2].weight, 20)}), base)
    tm.save_pretrained(tmp_path/'m', reference=base)
    client("TaskMask.from_pretrained('m').push_to_hub('someone/small'); print(1)")
    files = hub.repos['someone/small'].files('main')
    assert all(files[f.name]==f.read_bytes() for f in (tmp_path/'m').glob('[am]*'))

def test_hostile_repositories(hub, client, tmp_path):
    src = task().save_pretrained(tmp_path/'src'); cfg = read_config(src); data = next(src.glob('mask-*')).read_bytes(); name = cfg['data']['file']
    def lay(i, **files): hub.repos[f'someone/bad{i}'] = Repo(); hub.repos[f'someone/bad{i}'].commit({k.replace('__', '.'): v for k,v in files.items() if v is not None} | ({name: data} if 'nodata' not in files else {}))
    escape = dict(cfg, data=dict(cfg['data'], file='../../../escape.safetensors'))
    bomb = dict(cfg, base=dict(cfg['base'], tensors={'w': dict(cfg['base']['tensors']['0.weight'], shape=[2**40, 2**40])}), mask={'w': dict(coding='constant', ones=0, bytes=0)})
    other = hashlib.sha256(b'x').hexdigest()
    swapped = dict(cfg, data=dict(cfg['data'], sha256=other, file=f'mask-{other[:16]}.safetensors'))
    for i,raw in enumerate([reseal(escape), reseal(bomb), (src/'adaptprune.json').read_bytes().replace(b'toy0', b'toy9'), b'[', b' '*(2**22+1), reseal(swapped)]): lay(i, adaptprune__json=raw)
    got = client("print(json.dumps([attempt(TaskMask.from_pretrained, f'someone/bad{i}') for i in range(6)]))")
    for (kind,text),words in zip(got, ["'file' holds", 'more than any file', 'checksum', 'is damaged', 'at most', '']):
        assert kind in ('MaskFileError', 'FileNotFoundError') and words in text and len(text)<500, (kind, text)
    assert not gets(hub, 'mask-'), 'no data is fetched for a config that is refused'
    assert not [p for p in tmp_path.rglob('escape*')]

def test_base_model_from_the_hub(hub, client, tiny, tmp_path):
    "`load_encoder` and `load_model` take the base from the same server, at the revision that the mask names"
    from adaptprune.artifact import base_tensors
    from adaptprune.head import AdaptModel
    enc = tiny('Bert')
    enc.save_pretrained(tmp_path/'b'); hub.repos['someone/tiny-bert'] = r = Repo()
    right = r.commit({f.name: f.read_bytes() for f in (tmp_path/'b').iterdir()})
    tiny('Bert', seed=1).save_pretrained(tmp_path/'c'); r.commit({f.name: f.read_bytes() for f in (tmp_path/'c').iterdir()})
    name = 'encoder.layer.0.attention.self.query.weight'; gen = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(16, 16, generator=gen)<.5})
    whole = AdaptModel(enc, 2); head = {n: p.detach() for n,p in whole.named_parameters() if n.startswith('head.')}
    tm = TaskMask(mask, dict(model='someone/tiny-bert', revision=right, tensors=base_tensors(enc, mask)), head, dict(task='toy', n_out=2, pooling='first'))
    put(hub, 'someone/toy', tm, tmp_path)
    got = client("""
import torch
from adaptprune.head import load_encoder
tm = TaskMask.from_pretrained('someone/toy'); x = torch.arange(2, 12)[None]
with torch.no_grad(): logits = tm.load_model()(input_ids=x).logits[0].tolist()
newest = load_encoder('someone/tiny-bert')
print(json.dumps([logits, attempt(tm.apply, newest), attempt(load_encoder, 'someone/nowhere')]))
""")
    tm.apply(whole)
    with torch.no_grad(): assert torch.allclose(torch.tensor(got[0]), whole.eval()(input_ids=torch.arange(2, 12)[None]).logits[0], atol=1e-6)
    assert got[1][0]=='BaseMismatch' and name in got[1][1] and got[2][0]=='OSError' and "'someone/nowhere'" in got[2][1]
