"Mask files: round trips, readers that know nothing of adaptprune, other bases, kills, and ten thousand damaged or hostile files."
import copy,hashlib,json,math,os,random,resource,signal,struct,time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
import constriction,numpy as np,pytest,safetensors.numpy,safetensors.torch,torch
from hypothesis import HealthCheck,given,settings,strategies as st
from torch import nn
from adaptprune.artifact import BaseMismatch,MaskFileError,TaskMask,base_tensors,magnitude_mask,mask_hash,merge_tasks,public_name,read_config
from adaptprune.codec import byte_frequencies,decode_bits,decode_mask,encode_bits,encode_mask,mask_entropy
from adaptprune.files import write_file
from adaptprune.mask import Mask
from adaptprune.optim import MaskOptimizer
from toy import die_at_call

few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
errors = (MaskFileError,FileNotFoundError)

def net(seed=0): torch.manual_seed(seed); return nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3, bias=False))

def task(seed=0, p=.2, base=None):
    "A small `TaskMask` with an entropy-coded tensor, a packed one, and a head"
    base,gen = base or net(),torch.Generator().manual_seed(seed)
    mask = Mask({'0.weight': torch.rand(30, 40, generator=gen)<p, '2.weight': torch.rand(3, 30, generator=gen)<.5})
    return TaskMask(mask, base, {'head.w': torch.randn(3, 4, generator=gen)}, dict(task=f'toy{seed}', metrics={'accuracy': .5}))

def same(a, b): return a.mask==b.mask and a.info==b.info and a.base==b.base and a.head.keys()==b.head.keys() and all(torch.equal(a.head[n], b.head[n]) for n in a.head)
def data_of(folder): return next(Path(folder).glob('mask-*.safetensors'))

# Coding

@few
@given(n=st.integers(1, 5000), p=st.sampled_from([0., .0003, .01, .2, .5, .8, .99, 1.]), seed=st.integers(0, 999))
def test_bits_round_trip(n, p, seed):
    bits = np.random.default_rng(seed).random(n)<p
    head,data = encode_bits(bits)
    assert head['bytes']==len(data)<=-(-n//8) and (decode_bits(head, n, data)==bits).all()

@few
@given(shape=st.lists(st.integers(0, 12), min_size=1, max_size=4), p=st.sampled_from([0., .05, .5, 1.]), q=st.sampled_from([0., .02, .5]), seed=st.integers(0, 999))
def test_mask_round_trip(shape, p, q, seed):
    gen = torch.Generator().manual_seed(seed)
    ref = torch.rand(shape, generator=gen)<p
    m = ref ^ (torch.rand(shape, generator=gen)<q)
    for r in (None, ref):
        head,data = encode_mask(m, r)
        assert torch.equal(decode_mask(head, shape, data, r), m)

@given(n=st.integers(2, 10**10), share=st.floats(0, 1))
@few
def test_frequencies(n, share):
    f = byte_frequencies(min(max(1, int(share*n)), n-1), n)
    assert f.sum()==2**24 and f.min()>=1 and len(f)==256

def test_stream_is_stable():
    "The very bytes of the format: a new constriction must not change them"
    bits = np.arange(400)%7==0
    head,data = encode_bits(bits)
    assert head==dict(coding='entropy', ones=58, bytes=32)
    assert data.hex()=='3a0360f93c7f5adb83415748feefe8f22621e8736b1fe87445efe779fc614ddb'

bert = lambda k: {f'{i}.{n}': s for i in range(2) for n,s in dict(q=(768//k, 768//k), up=(3072//k, 768//k), down=(768//k, 3072//k)).items()}

@pytest.mark.parametrize('sparsity', [.05,.2,.5,.9,.99])
def test_at_the_entropy(sparsity):
    gen = torch.Generator().manual_seed(0)
    mask = Mask({n: torch.rand(s, generator=gen)>sparsity for n,s in bert(2).items()})
    assert sum(len(encode_mask(m)[1]) for m in mask.values()) <= 1.01*mask_entropy(mask)

def test_magnitude_mask_is_exact():
    w = torch.randint(-4, 5, (40, 50)).float()
    for k in (0, 1, 777, 1999, 2000):
        order = (-w.abs().reshape(-1)).argsort(stable=True)[:k]
        assert torch.equal(magnitude_mask(w, k).reshape(-1).nonzero()[:,0], order.sort()[0])
    assert torch.equal(magnitude_mask(w.bfloat16(), 777), magnitude_mask(w, 777))

# The file

def test_file_round_trip(tmp_path):
    tm = task()
    back = TaskMask.from_pretrained(tm.save_pretrained(tmp_path/'a'/'b'))
    assert back.sparsity==tm.sparsity and back._mask is None and same(back, tm)
    assert {h['coding'] for h in read_config(tmp_path/'a'/'b')['mask'].values()}=={'entropy','bits'}
    (tmp_path/'c').mkdir(); back.save_pretrained(tmp_path/'c')
    assert all((tmp_path/'c'/f.name).read_bytes()==f.read_bytes() for f in (tmp_path/'a'/'b').glob('[am]*')), 'the same mask gives the same bytes'

def test_constants_and_dtypes(tmp_path):
    base = net().bfloat16()
    tm = TaskMask(Mask({'0.weight': torch.ones(30, 40, dtype=torch.bool), '2.weight': torch.zeros(3, 30, dtype=torch.bool)}), base, {'h': torch.ones(2).bfloat16(), 'n': torch.tensor(3)}, dict(nan=float('nan'), x=np.float64(.5)))
    back = TaskMask.from_pretrained(tm.save_pretrained(tmp_path))
    assert back.mask==tm.mask and back.info==dict(nan=None, x=.5) and back.head['h'].dtype==torch.bfloat16 and torch.equal(back.head['n'], torch.tensor(3))
    assert not back.apply(base)[2].weight.any()

def test_replaces_and_leaves_strangers(tmp_path):
    (tmp_path/'mask-mine.safetensors').write_bytes(b'precious'); (tmp_path/'mask-0123456789abcdef.safetensors.tmp').write_bytes(b'left over')
    task(0).save_pretrained(tmp_path); task(1).save_pretrained(tmp_path)
    assert same(TaskMask.from_pretrained(tmp_path), task(1))
    assert sorted(f.name for f in tmp_path.iterdir() if f.name[0]!='.')==sorted(['adaptprune.json', data_of_config(tmp_path), 'mask-mine.safetensors'])

def data_of_config(folder): return json.loads((folder/'adaptprune.json').read_text())['data']['file']

def test_sisters(tmp_path):
    a = task(0); flips = torch.rand(30, 40, generator=torch.Generator().manual_seed(9))<.01
    b = TaskMask(Mask({n: m^flips if n=='0.weight' else m for n,m in a.mask.items()}), net(), info=dict(task='b'))
    b.save_pretrained(tmp_path/'b', reference=a)
    assert same(TaskMask.from_pretrained(tmp_path/'b', reference=a), b)
    for wrong in (None, task(1), net()):
        with pytest.raises(ValueError, match="differences from the mask of 'toy0'"): TaskMask.from_pretrained(tmp_path/'b', reference=wrong)
    task(5).save_pretrained(tmp_path/'c', reference=a)
    assert read_config(tmp_path/'c')['reference'] is None, 'no relation, no reference'
    other = TaskMask(Mask({'0.weight': a.mask['0.weight']}), net())
    with pytest.raises(ValueError, match="no mask of the shape of '2.weight'"): b.save_pretrained(tmp_path/'d', reference=other)

def test_relative_to_the_base(tmp_path):
    base = net()
    tm = TaskMask(Mask({'0.weight': magnitude_mask(base[0].weight, 700), '2.weight': magnitude_mask(base[2].weight, 20)}), base)
    tm.save_pretrained(tmp_path, reference=base)
    back = TaskMask.from_pretrained(tmp_path)
    assert back.sparsity==tm.sparsity
    with pytest.raises(ValueError, match='apply'): back.mask
    with pytest.raises(BaseMismatch): back.apply(net(1), check=False)
    got = back.apply(net())
    assert torch.equal(got[0].weight!=0, tm.mask['0.weight']) and back.mask==tm.mask
    assert same(TaskMask.from_pretrained(tmp_path, reference=base), tm)
    with pytest.raises(BaseMismatch): TaskMask.from_pretrained(tmp_path, reference=net(1))
    with pytest.raises(BaseMismatch): tm.save_pretrained(tmp_path, reference=net(1))

# Other programs

def read_with_numpy(folder):
    "A reader of the format that uses json, safetensors and numpy alone"
    cfg = json.loads((folder/'adaptprune.json').read_text()); assert (cfg['format'],cfg['version'])==('adaptprune',1)
    raw = (folder/cfg['data']['file']).read_bytes(); assert hashlib.sha256(raw).hexdigest()==cfg['data']['sha256']
    tensors,mask = safetensors.numpy.load(raw),{}
    for name,h in cfg['mask'].items():
        shape = cfg['base']['tensors'][name]['shape']; n = math.prod(shape)
        if h['coding']=='constant': bits = np.full(n, h['ones']>0)
        elif h['coding']=='bits': bits = np.unpackbits(tensors['mask/'+name], count=n, bitorder='little')>0
        else: bits = np.unpackbits(python_ans(tensors['mask/'+name].view('<u4'), h['ones'], n), count=n, bitorder='little')>0
        mask[name] = bits.reshape(shape)
    return mask,{n: tensors['head/'+n] for n in cfg['head']}

def python_ans(words, ones, n):
    "The entropy coding again, from its description: plain whole numbers, no coder library"
    f = [ones**k*(n-ones)**(8-k)*(2**24-256)//n**8+1 for k in range(9)]
    freq = [f[b.bit_count()] for b in range(256)]; freq[255 if 2*ones>n else 0] += 2**24-sum(freq)
    start = np.concatenate([[0], np.cumsum(freq)]).tolist()
    words,state,out = [int(w) for w in np.trim_zeros(words, 'b')],0,[]
    while True:
        while state<2**32 and words: state = state<<32 | words.pop()
        if len(out)==-(-n//8): break
        q = state%2**24; b = int(np.searchsorted(start, q, 'right'))-1
        state = (state>>24)*freq[b]+q-start[b]; out.append(b)
    assert state==0 and not words
    return np.array(out, np.uint8)

def test_read_without_adaptprune(tmp_path):
    base = nn.Sequential(nn.Linear(300, 70), nn.Linear(70, 9), nn.Linear(9, 4), nn.Linear(200, 100))
    densities = {'0.weight': .1, '1.weight': .5, '2.weight': 1., '3.weight': 1e-4}
    tm = TaskMask(Mask({n: torch.rand(base.get_parameter(n).shape, generator=torch.Generator().manual_seed(1))<p for n,p in densities.items()}), base, {'w': torch.randn(3)})
    mask,head = read_with_numpy(tm.save_pretrained(tmp_path))
    assert {h['coding'] for h in read_config(tmp_path)['mask'].values()}=={'entropy','bits','constant'}
    assert mask.keys()==tm.mask.keys() and all((mask[n]==tm.mask[n].numpy()).all() for n in mask) and (head['w']==tm.head['w'].numpy()).all()

def test_config_is_canonical(tmp_path):
    "The checksum as the format page has it: SHA-256 of the text with zeros in the checksum's place"
    tm = task(); tm.info['note'] = '0'*64
    text = (tm.save_pretrained(tmp_path)/'adaptprune.json').read_text(); assert same(TaskMask.from_pretrained(tmp_path), tm)
    c = json.loads(text)['checksum']
    assert hashlib.sha256(text.replace(c, '0'*64).encode()).hexdigest()==c

# Other bases

def test_other_base_is_refused():
    tm = task()
    with pytest.raises(BaseMismatch, match=r'2 of 2 tensors differ: 0.weight holds other values, 2.weight holds other values'): tm.apply(net(1))
    one = net(); one[2].weight.data[0,0] += 1e-6; before = copy.deepcopy(one)
    with pytest.raises(BaseMismatch, match='1 of 2 tensors differ: 2.weight holds other values'): tm.apply(one)
    assert torch.equal(one[0].weight, before[0].weight), 'a refused model is untouched'
    with pytest.warns(UserWarning, match='2.weight holds other values'): tm.apply(one, check=False)
    assert torch.equal(one[0].weight!=0, tm.mask['0.weight'])
    with pytest.raises(BaseMismatch, match='has dtype float64'): tm.apply(net().double())
    for bad in (nn.Sequential(nn.Linear(41, 30), nn.ReLU(), nn.Linear(30, 3)), nn.Sequential(nn.Linear(40, 30))):
        with pytest.raises(BaseMismatch, match=r'has shape \[30, 41\]|is missing'): tm.apply(bad, check=False)
    with pytest.raises(BaseMismatch, match='which the mask covers'): TaskMask(Mask({'9.weight': torch.ones(2)>0}), net())

def test_wrapped_models(tmp_path):
    "DataParallel, torch.compile and a compiled part change names and nothing else"
    tm = task()
    for wrap in (nn.DataParallel, torch.compile, lambda m: nn.DataParallel(torch.compile(m))):
        assert TaskMask(tm.mask, wrap(net())).base==tm.base
        model = net(); tm.apply(wrap(model))
        assert torch.equal(model[0].weight, net()[0].weight*tm.mask['0.weight'])
    part = net(); part[0] = torch.compile(part[0])
    assert tm.check(part) is part and list(dict(part.named_parameters()))[0]=='0._orig_mod.weight'
    head = nn.Sequential(nn.Linear(2, 2))
    TaskMask(tm.mask, net(), {'0.weight': torch.ones(2, 2)}).load_head(nn.DataParallel(torch.compile(head)))
    assert torch.equal(head[0].weight, torch.ones(2, 2))

def test_nothing_of_the_machine(tmp_path):
    (tmp_path/'my-bert').mkdir()
    assert public_name(tmp_path/'my-bert')==('my-bert',None) and public_name('google-bert/bert-base-uncased')[0]=='google-bert/bert-base-uncased'
    assert public_name('/home/me/models/x')[0]=='x' and public_name('../x')[0]=='x' and public_name(None)==(None,None)
    assert public_name('minilm')[0]=='sentence-transformers/all-MiniLM-L6-v2'

class Run(SimpleNamespace): "What `adapt` returns, as far as a mask file needs it"

def run(model, base, path, x, report={}, steps=4):
    "A model after a short run"
    head = [p for p in model.parameters() if id(p) not in {id(q) for q in base.parameters()}]
    tensors = base_tensors(base)
    opt = MaskOptimizer(base, head, .5, steps, start='rank')
    out = (lambda: model(**x).logits) if isinstance(x, dict) else (lambda: model(x))
    for _ in range(steps):
        out().square().mean().backward()
        opt.step(); opt.zero_grad()
    res = Run(model=model, mask=opt.mask(), base=base, base_name=path, tensors=tensors, report=dict(method='mask', **report))
    opt.close()
    return res

@pytest.mark.weights
def test_from_a_run(tmp_path):
    from adaptprune.head import AdaptModel,load_encoder
    model = AdaptModel(load_encoder('minilm'), 2)
    x = dict(input_ids=torch.tensor([[101, 2023, 102]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
    res = run(model, model.encoder, 'encoder', x, dict(task='mini-sentiment', model='minilm', metrics={'accuracy': .5}, seed=0))
    tm = TaskMask.from_adapted(res, note='two steps')
    assert tm.info['labels']==['negative','positive'] and tm.info['note']=='two steps' and all(n.startswith('head.') for n in tm.head)
    text = (tm.save_pretrained(tmp_path)/'adaptprune.json').read_text()
    assert str(tmp_path) not in text and 'site-packages' not in text
    model = TaskMask.from_pretrained(tmp_path).load_model('minilm')
    with torch.no_grad(): assert torch.equal(model(**x).logits, res.model.eval()(**x).logits)
    hostile = TaskMask.from_pretrained(tmp_path); hostile.info['n_out'] = 10**12
    with pytest.raises(MaskFileError, match='outputs'): hostile.load_model()
    res.mask = None
    with pytest.raises(ValueError, match='no mask'): TaskMask.from_adapted(res)

class Nested(nn.Module):
    "Two parts with weights of the same names and shapes, of which `base_model` is the wrong one"
    def __init__(self):
        super().__init__(); torch.manual_seed(0)
        self.base_model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
        self.head = nn.Linear(8, 2)
    def forward(self, x): return self.head(self.base_model(x))

class Backbone(nn.Module):
    def __init__(self):
        super().__init__(); torch.manual_seed(0)
        self.backbone,self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU()),nn.Linear(8, 2)
    def forward(self, x): return self.head(self.backbone(x))

class Sentences(nn.Sequential):
    "Nested like a SentenceTransformer: the encoder is `model[0].auto_model`"
    def __init__(self):
        torch.manual_seed(0)
        first = nn.Module(); first.auto_model = nn.Sequential(nn.Linear(8, 8), nn.ReLU()); first.forward = lambda x: first.auto_model(x)
        super().__init__(first, nn.Linear(8, 2))

@pytest.mark.parametrize('kind,name', [(Nested, 'base_model.1'), (Backbone, 'backbone'), (Sentences, '0.auto_model'), (Backbone, '')])
@pytest.mark.parametrize('wrap', [lambda m: m, nn.DataParallel, torch.compile], ids=['plain', 'parallel', 'compiled'])
def test_the_base_is_found_again(kind, name, wrap, tmp_path):
    "Whatever part of a model was adapted, and however it was wrapped, a fresh one gets the same weights and the same head"
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    inner = kind()
    model = wrap(inner) if wrap is not torch.compile else torch.compile(inner, backend='eager')
    res = run(model, inner.get_submodule(name), name, x)
    TaskMask.from_adapted(res).save_pretrained(tmp_path)
    tm = TaskMask.from_pretrained(tmp_path)
    fresh = kind()
    tm.load_head(tm.apply(fresh))
    with torch.no_grad(): assert torch.equal(fresh(x), inner(x))
    assert not any('module' in n or '_orig_mod' in n for n in (*tm.head, *tm.mask)) and bool(tm.head)==bool(name)
    alone = kind().get_submodule(name)
    assert tm.check(alone) is alone, 'the base by itself will do'
    other = kind()
    with torch.no_grad(): other.get_submodule(name).get_parameter(next(iter(tm.mask)))[0] += 1
    with pytest.raises(BaseMismatch): tm.apply(other)

def test_the_hashes_are_of_the_weights_before_the_run(tmp_path):
    inner = Backbone()
    tm = TaskMask.from_adapted(run(inner, inner.backbone, 'backbone', torch.randn(4, 8)))
    assert tm.base['tensors']==base_tensors(Backbone().backbone, tm.mask)!=base_tensors(inner.backbone, tm.mask)

# What is written can be read

names = st.one_of(st.text(max_size=250), st.sampled_from(['my model', 'a+b', 'a@b', 'bert (2)', 'x,y', '..', '../..', '/', '.', 'a/../b', 'a..b', 'x'*300, 'a/'+'b'*300, 'owner/name', 'a\\b', 'é/ü', '\n']))

@few
@given(name=names)
def test_any_name_of_a_base_can_be_written_and_read(tmp_path_factory, name):
    tm,folder = task(),tmp_path_factory.mktemp('named')
    tm.base['model'] = public_name(name)[0]
    assert TaskMask.from_pretrained(tm.save_pretrained(folder)).base==tm.base

def test_names_stay_readable(tmp_path):
    assert [public_name(n)[0] for n in ('my model', '/models/bert+wiki', 'bert (v2, cased)', 'a@b', '..', 'x'*300)]==['my-model', 'bert-wiki', 'bert-v2-cased', 'a-b', None, 'x'*200]
    (tmp_path/'my model').mkdir()
    assert public_name(tmp_path/'my model')==('my-model', None)

@pytest.mark.parametrize('what,change,words', [
    ('a name', lambda tm: tm.base.update(model='my model'), "'model' holds 'my model'"),
    ('a revision', lambda tm: tm.base.update(revision='a b'), "'revision' holds 'a b'"),
    ('a large head', lambda tm: tm.head.update(lm=torch.zeros(1).expand(2**28+1000)), 'at most 1,073,741,824'),
    ('a head of flags', lambda tm: tm.head.update(flags=torch.ones(3)>0), "'dtype' holds 'bool'"),
    ('a head with NaN', lambda tm: tm.head.update(w=torch.tensor([1., math.nan])), 'not finite'),
    ('much to say', lambda tm: tm.info.update(note='x'*2**23), 'at most 4,194,304'),
    ('a mask of a part', lambda tm: setattr(tm, '_mask', Mask({'0.weight': tm.mask['0.weight']})), 'not the same')])
def test_what_could_not_be_read_is_not_written(tmp_path, what, change, words):
    task(1).save_pretrained(tmp_path)
    tm = task(); change(tm)
    with pytest.raises(MaskFileError, match=words): tm.save_pretrained(tmp_path)
    assert same(TaskMask.from_pretrained(tmp_path), task(1)) and len([f for f in tmp_path.iterdir() if f.name[0]!='.'])==2, 'the old file stays'

def test_a_mask_of_other_shapes_is_refused():
    with pytest.raises(BaseMismatch, match=r"'0.weight' has shape \(30, 40\) in the base and \(2, 2\)"): TaskMask(Mask({'0.weight': torch.ones(2, 2)>0}), net())

def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_file(tmp_path/'a'/'f', b'old')
    def half(f): f.write(b'new'); raise OSError('No space left on device')
    with pytest.raises(OSError, match='No space'): write_file(tmp_path/'a'/'f', half)
    assert (tmp_path/'a'/'f').read_bytes()==b'old' and [f.name for f in (tmp_path/'a').iterdir()]==['f']
    write_file(tmp_path/'a'/'f', lambda f: f.write(b'new')); assert (tmp_path/'a'/'f').read_bytes()==b'new'

# Names (the Hub itself: test_hub.py)

def test_names_that_can_be_neither_folder_nor_repository():
    for bad in ('nowhere', '../x', 'a/b/c', '/no/where', '-x/y', 'a b/c'):
        with pytest.raises(FileNotFoundError, match='No folder'): TaskMask.from_pretrained(bad)
        with pytest.raises(ValueError, match='owner/name'): task().push_to_hub(bad)

# Several tasks

def test_counts_without_decoding(tmp_path):
    tm = task(); back = TaskMask.from_pretrained(tm.save_pretrained(tmp_path))
    assert (back.kept,back.sparsity,back.by('matrix'),back.by())==(tm.mask.kept,tm.mask.sparsity,tm.mask.by('matrix'),tm.by()) and back._mask is None

def test_merged_tasks():
    a,b = task(0),task(1)
    for how,want in (('union', a.mask|b.mask), ('intersection', a.mask&b.mask)):
        x,y = merge_tasks([a, b], how)
        assert x.mask==y.mask==want and torch.equal(x.head['head.w'], a.head['head.w']) and torch.equal(y.head['head.w'], b.head['head.w'])
        assert (x.info['task'],y.info['task'])==('toy0','toy1') and x.info['merged']==dict(tasks=['toy0','toy1'], how=how)
        assert 'metrics' not in x.info and x.info['kept']==want.kept and 'metrics' in a.info, 'the inputs stay as they are'
    assert merge_tasks([a, b, task(2)], 'vote', sparsity=.7)[2].mask.kept==1290-round(.7*1290)

def test_only_masks_of_one_base_can_be_merged():
    a,other = task(0),task(1, base=net(1))
    with pytest.raises(BaseMismatch, match=r"0.weight holds other values.*only masks of one base"): merge_tasks([a, other])
    part = TaskMask(Mask({'0.weight': a.mask['0.weight']}), net())
    for pair in ([a, part], [part, a]):
        with pytest.raises(BaseMismatch, match='2.weight is m'): merge_tasks(pair)
    with pytest.raises(ValueError, match='two tasks or more'): merge_tasks([a])
    with pytest.raises(ValueError, match="Unknown way to merge 'sum'"): merge_tasks([a, a], 'sum')

# Kills

def in_child(f):
    "Run f in a forked child; its pid"
    pid = os.fork()
    if pid: return pid
    try: f()
    finally: os._exit(7)

def test_killed_at_each_step(tmp_path):
    "Die at the first, second, ... call that touches the disk"
    old,new,seen = task(0),task(1),Counter()
    for k in range(1, 30):
        folder = tmp_path/str(k); old.save_pretrained(folder)
        def run():
            die_at_call(k)
            new.save_pretrained(folder); os._exit(0)
        _,status = os.waitpid(in_child(run), 0)
        got = TaskMask.from_pretrained(folder)
        which = 'old' if same(got, old) else 'new' if same(got, new) else 'neither'
        seen[which] += 1
        new.save_pretrained(folder)
        assert same(TaskMask.from_pretrained(folder), new) and len(list(folder.glob('*.tmp')))==0
        if os.WIFEXITED(status): assert os.WEXITSTATUS(status)==0; break
    assert seen['old']>=3 and seen['new']>=2 and not seen['neither'] and k>5

@pytest.mark.slow
def test_a_hundred_and_fifty_kills(tmp_path):
    a,b,rnd,seen = task(0),task(1),random.Random(0),Counter()
    a.save_pretrained(tmp_path)
    span,kills = .01,0
    while kills<150 or (min(seen['toy0'], seen['toy1'])<=10 and kills<1500):
        def run():
            while True: b.save_pretrained(tmp_path); a.save_pretrained(tmp_path)
        pid = in_child(run)
        time.sleep(rnd.uniform(0, span)); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
        got = TaskMask.from_pretrained(tmp_path)
        assert same(got, a) or same(got, b)
        seen[got.info['task']] += 1; kills += 1
        if kills%10==0 and 3*seen['toy1']<seen['toy0']: span = min(2*span, .5)              # a slow disk: give the child longer
    a.save_pretrained(tmp_path)
    assert min(seen['toy0'], seen['toy1'])>10 and len([f for f in tmp_path.iterdir() if f.name[0]!='.'])==2

def test_read_while_written(tmp_path):
    a,b = task(0),task(1)
    a.save_pretrained(tmp_path)
    def run():
        while True: b.save_pretrained(tmp_path); a.save_pretrained(tmp_path)
    pid = in_child(run)
    try:
        for _ in range(200):
            got = TaskMask.from_pretrained(tmp_path)
            assert same(got, a) or same(got, b)
    finally: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)

# Damage and malice

def reseal(cfg, dup=None):
    text = json.dumps(dict(cfg, checksum='0'*64))
    if dup: text = dup(text)
    before,_,after = text.rpartition('0'*64)
    return (before+hashlib.sha256(text.encode()).hexdigest()+after).encode()

def put(folder, cfg=None, data=None, raw=None):
    "Write a file with right hashes around wrong contents"
    for f in folder.iterdir(): f.unlink()
    if data is not None:
        sha = hashlib.sha256(data).hexdigest(); cfg['data'] = dict(file=f'mask-{sha[:16]}.safetensors', bytes=len(data), sha256=sha)
        (folder/cfg['data']['file']).write_bytes(data)
    (folder/'adaptprune.json').write_bytes(raw if raw is not None else reseal(cfg))

hostile = [None, True, -1, 0, 1, 7, 2**31, 2**40, 2**63, 10**30, 1.5, 1e308, '', '..', '../x', '/etc/passwd', 'a/../../b', '\x00', 'x'*5000, [], [[]], [2**40, 2**40], [-1, 3], [0], {}, {'a': 1}, 'constant', 'bits', 'entropy', 'delta', 'magnitude', 'float32', 'float16', 'int8', '0'*64]

def leaves(o, path=()):
    yield path
    for k,v in (o.items() if isinstance(o, dict) else enumerate(o) if isinstance(o, list) else ()): yield from leaves(v, path+(k,))

def set_at(o, path, v):
    for k in path[:-1]: o = o[k]
    o[path[-1]] = v

def mutations(cfg, data, rnd):
    "One kind of damage and the (raw config, data, name of the data file) that show it"
    kind = rnd.choice(['flip config', 'flip data', 'truncate', 'extend', 'field', 'drop', 'add', 'header', 'stream', 'text'])
    raw,name = reseal(cfg),cfg['data']['file']
    if kind=='flip config': b = bytearray(raw); b[rnd.randrange(len(b))] ^= 1<<rnd.randrange(8); return kind,bytes(b),data,name
    if kind=='flip data': b = bytearray(data); b[rnd.randrange(len(b))] ^= 1<<rnd.randrange(8); return kind,raw,bytes(b),name
    if kind=='truncate': return (kind,raw[:rnd.randrange(len(raw))],data,name) if rnd.random()<.5 else (kind,raw,data[:rnd.randrange(len(data))],name)
    if kind=='extend': x = rnd.randbytes(rnd.choice([1, 8, 3000])); return (kind,raw+x,data,name) if rnd.random()<.5 else (kind,raw,data+x,name)
    c = copy.deepcopy(cfg)
    if kind in ('field','drop','add'):
        path = rnd.choice([p for p in leaves(c) if p and p[0]!='info'])
        if kind=='field': set_at(c, path, rnd.choice(hostile))
        else:
            o = c
            for k in path[:-1]: o = o[k]
            if kind=='drop': o.pop(path[-1])
            elif isinstance(o, dict): o[rnd.choice(['x', '../y', '', 'bytes', 'coding', '0.weight'])] = rnd.choice(hostile)
            else: o.append(rnd.choice(hostile))
        return kind,reseal(c),data,name
    if kind=='text':
        bad = rnd.choice([b'', b'[]', b'null', b'{', b'\xff\xfe', b'['*100_000, b'{"a":'*50_000, b'1'*10_000, b'{"format":"adaptprune","version":1,"version":1}', b'{"format":"adaptprune","version":NaN}',
            raw.replace(b'"version": 1', b'"version": %d' % rnd.randrange(2, 10**6)), raw.replace(b'"format"', b'"format": 1, "format"'), raw+b' ', b'\xef\xbb\xbf'+raw, raw.replace(b'0.5', b'Infinity'), rnd.randbytes(300)])
        return kind,bad,data,name
    end = 8+int.from_bytes(data[:8], 'little')
    if kind=='header':
        h = data[8:end].decode()
        key = rnd.choice(['"shape":[', '"data_offsets":[', '"dtype":"', '"mask/', '"head/', '{', '}', ':'])
        h2 = h.replace(key, key+rnd.choice(['9', '-1,', '1e9', '99999999999999999999', 'X', '"', '{', ',']), rnd.choice([1, -1])) if rnd.random()<.7 else h[:-1]+','+h[1:]
        size = rnd.choice([len(h2), len(h2), len(h2), 2**60, 2**63+5, 0, len(h2)+1000])
        data = struct.pack('<Q', size)+h2.encode()+data[end:]
    else:
        b = bytearray(data)
        for _ in range(rnd.choice([1, 2, 8])): b[rnd.randrange(end, len(b))] = rnd.choice([0, 255, rnd.randrange(256)])
        data = bytes(b)
    sha = hashlib.sha256(data).hexdigest(); c['data'] = dict(file=f'mask-{sha[:16]}.safetensors', bytes=len(data), sha256=sha)
    return kind,reseal(c),data,c['data']['file']

@pytest.mark.parametrize('n', [500, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_files(tmp_path, n):
    "Each gives a clear error, or the very mask and head, or (contents exchanged under right hashes) a well-formed other one"
    base,tm,rnd,seen = net(),task(),random.Random(1),Counter()
    src = tm.save_pretrained(tmp_path/'src'); cfg,data = read_config(src),data_of(src).read_bytes()
    folder = tmp_path/'x'; folder.mkdir(); old,last = None,None
    for _ in range(n):
        kind,raw,d,name = mutations(cfg, data, rnd)
        if name!=old and old: (folder/old).unlink()
        if name!=old or d is not last: (folder/name).write_bytes(d)
        old,last = name,d
        (folder/'adaptprune.json').write_bytes(raw)
        try: got = TaskMask.from_pretrained(folder); mask = got.mask
        except errors as e:
            assert len(str(e))<2000; seen[kind,'error'] += 1; continue
        if kind in ('field','drop','add'):
            try: new = got.apply(copy.deepcopy(base))
            except BaseMismatch: seen[kind,'other base'] += 1; continue
            assert mask==tm.mask and torch.equal(new[0].weight!=0, tm.mask['0.weight'])
        elif kind in ('stream','header'): assert all(m.shape==tm.mask[n].shape for n,m in mask.items()) and all(t.isfinite().all() for t in got.head.values())
        else: assert same(got, tm), kind
        seen[kind,'loads'] += 1
    print({k: {o: c for (q,o),c in sorted(seen.items()) if q==k} for k,_ in sorted(seen)})
    assert sum(seen.values())==n
    for kind in ('flip config','flip data','truncate','text'): assert seen[kind,'loads']<=(kind=='text')*seen[kind,'error']
    assert seen['flip config','loads']==seen['flip data','loads']==0 and seen['field','error']>n/20

def test_links_and_pipes(tmp_path):
    src = task().save_pretrained(tmp_path/'src'); f = data_of(src)
    out = tmp_path/'out'; out.mkdir(); (out/'adaptprune.json').write_bytes((src/'adaptprune.json').read_bytes()); (out/f.name).symlink_to(f)
    with pytest.raises(MaskFileError, match='link that leads out'): TaskMask.from_pretrained(out)
    (out/f.name).unlink(); os.mkfifo(out/f.name)
    with pytest.raises(MaskFileError, match='not a file'): TaskMask.from_pretrained(out)
    (out/f.name).unlink(); (out/f.name).mkdir()
    with pytest.raises(MaskFileError, match='not a file'): TaskMask.from_pretrained(out)
    (out/f.name).rmdir()
    with pytest.raises(FileNotFoundError, match='No mask-'): TaskMask.from_pretrained(out)
    (out/'adaptprune.json').unlink(); (out/'adaptprune.json').symlink_to('/dev/zero')
    with pytest.raises(MaskFileError, match='link|not a file'): TaskMask.from_pretrained(out)
    with pytest.raises(FileNotFoundError, match='save_pretrained'): TaskMask.from_pretrained(tmp_path)

def test_saving_follows_no_link(tmp_path):
    (tmp_path/'victim').write_text('precious'); (tmp_path/'m').mkdir(); (tmp_path/'m'/'adaptprune.json.tmp').symlink_to(tmp_path/'victim'); (tmp_path/'m'/'adaptprune.json').symlink_to(tmp_path/'victim')
    task().save_pretrained(tmp_path/'m')
    assert (tmp_path/'victim').read_text()=='precious' and same(TaskMask.from_pretrained(tmp_path/'m'), task())

def bombs(cfg, data):
    "Small files that claim to be large"
    def change(**kw):
        c = copy.deepcopy(cfg)
        for k,v in kw.items(): set_at(c, tuple(k.split('__')), v)
        return c
    def one(shape, head, **kw): return dict(copy.deepcopy(cfg), base=dict(cfg['base'], tensors={'w': dict(cfg['base']['tensors']['0.weight'], shape=shape)}), mask={'w': head}, head={}, **kw)
    entropy = safetensors.torch.save({'mask/w': torch.zeros(400, dtype=torch.uint8)})
    empty = safetensors.torch.save({})
    yield 'constant, 2**80 weights', one([2**40, 2**40], dict(coding='constant', ones=0, bytes=0)),empty
    yield 'constant, more than the limit', one([2**17, 2**17], dict(coding='constant', ones=0, bytes=0)),empty
    yield 'entropy, 2**33 weights in 400 bytes', one([2**16, 2**17], dict(coding='entropy', ones=5, bytes=400)),entropy
    yield 'bits, 2**33 weights in 400 bytes', one([2**33], dict(coding='bits', ones=5, bytes=400)),entropy
    yield 'bits, as many bytes as it takes', one([2**33], dict(coding='bits', ones=5, bytes=2**30)),entropy
    yield 'a head of a terabyte', change(head={'head.w': dict(shape=[2**38], dtype='float32')}),data
    yield 'a header of 2**60 bytes', change(),struct.pack('<Q', 2**60)+data[8:]

def limited(f, extra):
    "Exit status of f in a child that may take `extra` more bytes of address space: 0 if it raised MaskFileError"
    def run():
        now = int(Path('/proc/self/statm').read_text().split()[0])*os.sysconf('SC_PAGE_SIZE')
        resource.setrlimit(resource.RLIMIT_AS, (now+extra, now+extra))
        try: f()
        except MaskFileError: os._exit(0)
        except BaseException as e: print(type(e), e, flush=True)
        os._exit(1)
    return os.waitpid(in_child(run), 0)[1]

def test_no_memory_for_empty_claims(tmp_path):
    src = task().save_pretrained(tmp_path/'src'); cfg,data = read_config(src),data_of(src).read_bytes()
    folder = tmp_path/'bomb'; folder.mkdir()
    assert limited(lambda: bytearray(2**28), 100*2**20), 'the limit bites'
    for what,c,d in bombs(cfg, data):
        put(folder, c, d)
        assert limited(lambda: TaskMask.from_pretrained(folder).mask, 100*2**20)==0, what
    put(folder, copy.deepcopy(cfg), data); big = folder/data_of(folder).name
    with open(big, 'r+b') as f: f.truncate(2**40)
    assert limited(lambda: TaskMask.from_pretrained(folder), 100*2**20)==0, 'a sparse file of a terabyte'
    for raw in (b' '*2**26, b'['*2**21, b'{"a":['+b'[],'*2**20+b'0]}'):
        put(folder, raw=raw)
        assert limited(lambda: TaskMask.from_pretrained(folder), 250*2**20)==0, raw[:10]

def test_the_base_bounds_the_memory(tmp_path):
    "A well-formed file for another, larger base is refused by shape before its mask is decoded"
    base = nn.Linear(4, 4)
    c = dict(format='adaptprune', version=1, info={}, base=dict(model=None, revision=None, tensors={'weight': dict(base_tensors(base, ['weight'])['weight'], shape=[2**14, 2**16])}),
        mask={'weight': dict(coding='entropy', ones=5, bytes=2**20)}, head={}, reference=None)
    put(tmp_path, c, safetensors.torch.save({'mask/weight': torch.zeros(2**20, dtype=torch.uint8)}))
    def f():
        try: TaskMask.from_pretrained(tmp_path).apply(base)
        except BaseMismatch as e: raise MaskFileError(str(e))
    assert limited(f, 100*2**20)==0
