"Many tasks on one base: what a switch writes, mixed batches, threads, mistakes, and that the base always comes back bit for bit."
import copy,gc,pickle,threading,warnings
import pytest,torch
from hypothesis import HealthCheck,given,settings,strategies as st
from torch import nn
from adaptprune.artifact import BaseMismatch,MaskFileError,TaskMask
from adaptprune.head import AdaptModel
from adaptprune.anatomy import maskable
from adaptprune.layer import apply_mask,fingerprint
from adaptprune.mask import Mask
from adaptprune.multitask import _piece,MultiTask,pack_planes,word_of,write_masked
from adaptprune.optim import MaskOptimizer

def draw(model, seed=0, share=.6, weights='all'):
    g = torch.Generator().manual_seed(seed)
    ps = dict(model.named_parameters())
    return Mask({n: torch.rand(ps[n].shape, generator=g)<share for n in maskable(model, weights)})

class Net(nn.Module):
    "An embedding, tied to the output, and a linear layer"
    def __init__(self, d=8, vocab=20):
        super().__init__()
        self.emb,self.lin,self.out = nn.Embedding(vocab, d),nn.Linear(d, d),nn.Linear(d, vocab, bias=False)
        self.out.weight = self.emb.weight
    def forward(self, x): return self.out(self.lin(self.emb(x)).relu())

def net(seed=0): torch.manual_seed(seed); return Net().eval()
def ids(n=6, seed=0): return torch.randint(0, 20, (n, 5), generator=torch.Generator().manual_seed(seed))
def bits(model): return {n: p.detach().clone().reshape(-1).view(torch.uint8) for n,p in model.named_parameters()}
def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[n], b[n]) for n in a)
def baked(model, mask): return apply_mask(copy.deepcopy(model), mask)

def adapted(encoder, seed, n_out):
    "A `TaskMask` with an `AdaptModel`'s head"
    torch.manual_seed(seed)
    head = AdaptModel(encoder, n_out).head
    return TaskMask(draw(encoder, seed), encoder, {f'head.{k}': v for k,v in head.state_dict().items()}, dict(task=f't{seed}', n_out=n_out))

# Bits to weights

@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=40)
@given(n=st.one_of(st.integers(0, 300), st.sampled_from([_piece-1, _piece, _piece+1, 2*_piece+37])), share=st.sampled_from([0., .03, .5, .97, 1.]), seed=st.integers(0, 99))
def test_write_masked(dtype, n, share, seed):
    g = torch.Generator().manual_seed(seed)
    w0,keep = torch.randn(n, generator=g).to(dtype),torch.rand(n, generator=g)<share
    word = word_of(dtype)
    planes,out = pack_planes(keep, word),torch.full_like(w0, 7)
    assert write_masked(out, w0, planes) is out
    assert torch.equal(out.view(word), w0.masked_fill(~keep, 0).view(word))
    assert len(planes)==-(-n//(8*word.itemsize)) and planes.dtype==word

def test_special_values_survive():
    w0 = torch.tensor([float('nan'), float('inf'), -float('inf'), -0., 1e-45, -3.]*20)
    keep = torch.arange(120)%7<4
    out = write_masked(torch.empty_like(w0), w0, pack_planes(keep))
    assert torch.equal(out.view(torch.int32), torch.where(keep, w0.view(torch.int32), 0))

def test_a_bit_a_weight():
    assert pack_planes(torch.ones(3072, 768, dtype=torch.bool)).nbytes*32==3072*768*4

def test_other_devices_path(monkeypatch):
    "What runs off the CPU gives the same"
    from adaptprune import multitask
    w0,keep = torch.randn(1000),torch.rand(1000)<.5
    assert multitask._zero_negative is not multitask._zero_elsewhere
    monkeypatch.setattr(multitask, '_zero_negative', multitask._zero_elsewhere)
    assert torch.equal(write_masked(torch.empty_like(w0), w0, pack_planes(keep)), w0*keep)

# Switching

@pytest.mark.parametrize('family', ['Bert', 'Roberta', 'Electra', 'Albert', 'DistilBert', 'GPT2'])
def test_every_family(tiny, tokens, family):
    model = tiny(family)
    before,masks = bits(model),{f't{i}': draw(model, i) for i in range(3)}
    with torch.no_grad(): want = {n: baked(model, m)(**tokens)[0] for n,m in masks.items()} | {'dense': model(**tokens)[0]}
    places = {n: p.data_ptr() for n,p in model.named_parameters()}
    with MultiTask(model, masks) as many:
        for t in ('t1', 'dense', 't0', 't2', 't2', 'dense', 't1'):
            many.use(t)
            assert torch.equal(many(**tokens)[0], want[t]) and torch.equal(model(**tokens)[0], want[t])
            assert places=={n: p.data_ptr() for n,p in model.named_parameters()}
            if t=='dense': assert same(bits(model), before)
    assert same(bits(model), before)

@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype):
    model = net().to(dtype)
    before,mask = bits(model),draw(model)
    many = MultiTask(model, dict(a=mask))
    with many.use('a'): got = bits(model)
    assert same(bits(model), before) and same(got, bits(baked(net().to(dtype), mask))) and many.mask('a')==mask
    many.close()
    assert same(bits(model), before)

def test_tied_weights_once():
    model = net()
    many = MultiTask(model, dict(a=draw(model)))
    assert set(many._weights)=={'emb.weight', 'lin.weight'}
    with many.use('a'): assert model.out.weight is model.emb.weight and (model.out.weight==0).any()

def test_tasks_that_cover_different_weights():
    model = net()
    masks = dict(emb=draw(model, 0, weights='emb*'), lin=draw(model, 1, weights='lin*'), both=draw(model, 2))
    want = {t: bits(baked(model, m)) for t,m in masks.items()} | {'dense': bits(model)}
    many = MultiTask(model, masks)
    for t in ('emb', 'lin', 'dense', 'lin', 'both', 'emb', 'dense'):
        many.use(t)
        assert same(bits(model), want[t])
    many.remove('both'), many.remove('emb')
    assert set(many._weights)=={'lin.weight'} and same(bits(model), want['dense'])

def test_weights_that_are_not_contiguous():
    model = net()
    model.lin.weight.data = model.lin.weight.data.t()
    before,mask = model.lin.weight.detach().clone(),draw(model)
    with MultiTask(model, dict(a=mask)) as many:
        many.use('a')
        assert torch.equal(model.lin.weight, before*mask['lin.weight']) and not model.lin.weight.is_contiguous()
    assert torch.equal(model.lin.weight, before)

def test_within_inference_mode_and_without():
    model = net()
    before,want = bits(model),bits(baked(model, draw(model)))
    with torch.inference_mode(): many = MultiTask(model, dict(a=draw(model), b=draw(model, 1)))
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            many.use('b')
            many.use('a')
            assert same(bits(model), want)
            many(ids(2), tasks=['a', 'b'])
    many.close()
    assert same(bits(model), before)

def test_compiled_code_and_optimisers_see_the_switch():
    model = net()
    frozen = torch.fx.symbolic_trace(model)
    with MultiTask(model, dict(a=draw(model))) as many:
        for t in ('a', 'dense'):
            many.use(t)
            assert torch.equal(frozen(ids()), model(ids()))

def test_an_interrupted_switch_is_put_right(monkeypatch):
    from adaptprune import multitask
    model = net()
    before,want,real,n = bits(model),bits(baked(model, draw(model, 1))),multitask._write,[0]
    many = MultiTask(model, dict(a=draw(model, 0), b=draw(model, 1)))
    many.use('a')
    def fails(*args):
        n[0] += 1
        if n[0]==2: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(multitask, '_write', fails)
    with pytest.raises(KeyboardInterrupt): many.use('b')
    monkeypatch.undo()
    many.use('a')
    assert same(bits(model), bits(baked(copy_of(before), draw(model, 0))))
    many.use('b')
    assert same(bits(model), want)
    many.close()
    assert same(bits(model), before)

def copy_of(saved):
    model = net()
    assert same(bits(model), saved)
    return model

# use as a call and as a context

def test_blocks_nest_and_come_back():
    model = net()
    many = MultiTask(model, {t: draw(model, i) for i,t in enumerate('abc')})
    many.use('a')
    with many.use('b') as inner:
        assert inner is many and many.task=='b'
        many.use('c')
        with many.use('dense'): assert many.task=='dense'
        assert many.task=='c'
    assert many.task=='a'
    with pytest.raises(KeyError):
        with many.use('b'): raise KeyError
    assert many.task=='a'
    u = many.use('b')
    assert many.task=='b' and repr(u)=="using 'b'"
    with u: pass
    assert many.task=='a'
    with u: assert many.task=='b'
    assert many.task=='a'

def test_bare_calls_do_not_pile_up():
    model = net()
    many = MultiTask(model, dict(a=draw(model), b=draw(model, 1)))
    for t in 'ab'*50: many.use(t)
    assert len(many._frames)==1 and len(many._frames[0])<=2

def test_closed_within_a_block():
    model = net()
    before,many = bits(model),MultiTask(model, dict(a=draw(model)))
    with many.use('a'): many.close()
    assert same(bits(model), before)
    with pytest.raises(ValueError, match='closed'): many.use('dense')
    MultiTask(model)

# Threads

def test_threads_take_turns():
    model = net()
    names,x = ['a', 'b', 'c', 'dense'],ids()
    masks = {t: draw(model, i) for i,t in enumerate('abc')}
    with torch.no_grad(): want = {t: baked(model, m)(x) for t,m in masks.items()} | {'dense': model(x)}
    many,wrong = MultiTask(model, masks),[]
    many.use('b')
    def work(i):
        g = torch.Generator().manual_seed(i)
        for _ in range(60):
            t,how = names[int(torch.randint(4, (), generator=g))],int(torch.randint(3, (), generator=g))
            if how==0:
                with many.use(t), torch.no_grad(): ok = many.task==t and torch.equal(model(x), want[t]) and torch.equal(many(x), want[t])
            elif how==1: ok = torch.equal(many(x, tasks=t), want[t])
            else: ok = all(torch.equal(a, want[s][j]) for j,(a,s) in enumerate(zip(many(x, tasks=[t]*len(x)), [t]*len(x))))
            if not ok: wrong.append((i, t, how))
    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads: t.start()
    for t in threads: t.join(60)
    assert not wrong and not any(t.is_alive() for t in threads)
    assert many.task=='b'

def test_another_thread_waits_for_the_block():
    model = net()
    many,seen = MultiTask(model, dict(a=draw(model), b=draw(model, 1))),[]
    def other():
        with many.use('b'): seen.append(many.task)
    with many.use('a'):
        th = threading.Thread(target=other)
        th.start()
        th.join(.2)
        assert th.is_alive() and not seen and many.task=='a'
    th.join(10)
    assert seen==['b'] and many.task=='dense'

def test_blocks_whose_calls_crossed():
    "Two threads called `use` before either entered: when both have left, the last bare call counts"
    model = net()
    many = MultiTask(model, {t: draw(model, i) for i,t in enumerate('abc')})
    many.use('c')
    u,v = many.use('a'),many.use('b')
    with u: assert many.task=='a'
    with v: assert many.task=='b'
    assert many.task=='c'

# Mixed batches

@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.sampled_from(['two', 'three', 'bare', 'dense']), min_size=1, max_size=9), now=st.sampled_from(['dense', 'two']))
def test_mixed_is_separate(tiny, rows, now):
    enc = tiny('Bert')
    g = torch.Generator().manual_seed(len(rows))
    batch = dict(input_ids=torch.randint(2, 50, (len(rows), 7), generator=g), attention_mask=torch.ones(len(rows), 7, dtype=torch.long))
    many = MultiTask(enc, dict(two=adapted(enc, 1, 2), three=adapted(enc, 2, 3), bare=draw(enc, 3)))
    many.use(now)
    got = many(**batch, tasks=rows)
    assert many.task==now and len(got)==len(rows)
    for t in set(rows):
        mine = [i for i,r in enumerate(rows) if r==t]
        part = {k: v[mine] for k,v in batch.items()}
        with many.use(t), torch.no_grad():
            out = many(**part)
            assert torch.equal(enc(**part)[0], many._tasks['bare'].model(**part)[0])
        want = out.logits if hasattr(out, 'logits') else out[0]
        for i,w in zip(mine, want, strict=True): assert torch.equal(got[i], w)
    many.close()

def test_mixed_against_models_of_their_own(tiny, tokens):
    enc = tiny('Bert')
    tasks = dict(two=adapted(enc, 1, 2), three=adapted(enc, 2, 3))
    own = {n: t.load_model(copy.deepcopy(enc)) for n,t in tasks.items()}
    many = MultiTask(enc, tasks)
    rows = ['two', 'three', 'three', 'two']
    got = many(**tokens, tasks=rows)
    for n,model in own.items():
        mine = [i for i,r in enumerate(rows) if r==n]
        with torch.no_grad(): want = model(**{k: v[mine] for k,v in tokens.items()}).logits
        assert torch.equal(torch.stack([got[i] for i in mine]), want)

def test_mixed_mistakes(tiny, tokens):
    enc = tiny('Bert')
    many = MultiTask(enc, dict(a=draw(enc)))
    many.use('a')
    with pytest.raises(ValueError, match="3 tasks for a batch of 4 rows"): many(**tokens, tasks=['a', 'dense', 'a'])
    with pytest.raises(ValueError, match="No task 'b': there are dense, a"): many(**tokens, tasks=['a', 'b', 'a', 'a'])
    with pytest.raises(ValueError, match='takes no labels'): many(**tokens, labels=torch.zeros(4), tasks=['a']*4)
    with pytest.raises(ValueError, match="No task 'b'"): many(**tokens, tasks='b')
    assert many.task=='a'

def test_mixed_comes_back_after_an_error():
    model = net()
    many = MultiTask(model, dict(a=draw(model), b=draw(model, 1)))
    many.use('a')
    with pytest.raises(IndexError): many(torch.tensor([[1, 2], [3, 99]]), tasks=['a', 'b'])
    assert many.task=='a' and same(bits(model), bits(baked(net(), draw(model))))

def test_positional_and_shared_inputs():
    class Add(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.randn(3, 3))
        def forward(self, x, y, scale=1): return x@self.w*scale+y
    model = Add()
    x,y = torch.randn(4, 3),torch.randn(1, 3)
    with MultiTask(model, dict(a=Mask({'w': torch.eye(3).bool()}))) as many: got = many(x, y, scale=2, tasks=['a', 'dense']*2)
    with torch.no_grad():
        assert torch.allclose(got[1], (model(x, y, 2))[1]) and torch.allclose(got[2], x[2]*model.w.diag()*2+y[0])

# Adding, removing, mistakes

def test_fingerprint_is_checked_while_a_task_is_in_use():
    model,other = net(),net(1)
    many = MultiTask(model, dict(a=TaskMask(draw(model), model)))
    b = TaskMask(draw(model, 1), copy.deepcopy(net()))
    many.use('a')
    many.add('b', b)
    assert many.task=='a' and same(bits(model), bits(baked(net(), draw(model))))
    with pytest.raises(BaseMismatch, match='not the base'): many.add('c', TaskMask(draw(other), other))
    assert many.tasks==['dense', 'a', 'b'] and many.task=='a'
    with pytest.warns(UserWarning, match='not the base'): many.add('c', TaskMask(draw(other), other), check=False)
    many.use('b')
    assert same(bits(model), bits(baked(net(), draw(model, 1))))

def test_mistakes_in_add_leave_all_as_it_was():
    model = net()
    many = MultiTask(model, dict(a=draw(model)))
    many.use('a')
    inside,good = bits(model),draw(model, 1)
    for task,error,words in [(3, TypeError, 'got int'), ('no-such-folder', OSError, 'No folder'), (Mask({'x': torch.ones(2, dtype=torch.bool)}), ValueError, "'x' that the base lacks"),
                             (Mask({'lin.weight': torch.ones(2, 2, dtype=torch.bool)}), ValueError, r'has shape \(8, 8\) in the base')]:
        with pytest.raises(error, match=words): many.add('b', task)
    for name in ('a', 'dense'):
        with pytest.raises(ValueError, match=f"a task '{name}' already"): many.add(name, good)
    with pytest.raises(ValueError, match='not built around this base'): many.add('b', good, model=net())
    with pytest.raises(ValueError, match='not that of an AdaptModel'): many.add('b', TaskMask(good, net(), {'cls.w': torch.ones(2)}))
    assert many.task=='a' and many.tasks==['dense', 'a'] and same(bits(model), inside)

def test_a_failed_start_leaves_the_base():
    model = net()
    before = bits(model)
    with pytest.raises(TypeError): MultiTask(model, dict(a=draw(model), b=3))
    assert same(bits(model), before) and not model._state_dict_pre_hooks
    MultiTask(model).close()

def test_remove():
    model = net()
    many = MultiTask(model, dict(a=draw(model), b=draw(model, 1)))
    many.use('a')
    with pytest.raises(ValueError, match="'a' is in use"): many.remove('a')
    with many.use('b'):
        with pytest.raises(ValueError, match="'a' is in use"): many.remove('a')
    with pytest.raises(ValueError, match='always there'): many.remove('dense')
    with pytest.raises(ValueError, match="No task 'z'"): many.remove('z')
    u = many.use('b')
    many.use('dense')
    many.remove('b')
    with pytest.raises(ValueError, match="No task 'b'"): u.__enter__()
    assert many._lock.acquire(blocking=False) and many.task=='dense'
    many.remove('a')
    assert many.memory()['pristine']==0
    many.add('b', draw(model, 5)).use('b')

def test_one_at_a_time_and_not_while_training():
    model = net()
    before,many = bits(model),MultiTask(model, dict(a=draw(model)))
    with pytest.raises(ValueError, match='Another MultiTask'): MultiTask(model)
    opt = MaskOptimizer(model, sparsity=.5, steps=4, start='rank')
    for _ in range(4): model(ids()).square().sum().backward(); opt.step(); opt.zero_grad()
    assert opt.sparsity()==.5
    for f in (lambda: many.use('a'), lambda: many(ids()), lambda: many.add('b', draw(model)), lambda: many(ids(), tasks=['a']*6)):
        with pytest.raises(RuntimeError, match='changed since the last switch'): f()
    many.close(); opt.restore(); opt.close()
    assert same(bits(model), before)
    MultiTask(model).close()

def test_wrapped_bases():
    model = net()
    want = bits(baked(model, draw(model)))
    for wrap in (nn.DataParallel, torch.compile):
        with MultiTask(wrap(model), dict(a=TaskMask(draw(model), net()))) as many:
            many.use('a')
            assert many.base is model and same(bits(model), want) and many.mask('a')==draw(model)
    part = net(); part.lin = torch.compile(part.lin)
    with MultiTask(part, dict(a=draw(net()))) as many:
        many.use('a')
        assert torch.equal(part.lin.weight, baked(net(), draw(net())).lin.weight) and 'lin._orig_mod.weight' in dict(part.named_parameters())

def test_a_mask_of_a_part_of_the_base():
    model = net()
    mask = Mask({'weight': draw(model)['lin.weight']})
    task = TaskMask(mask, model.lin, info=dict(base_name='lin'))
    with pytest.raises(BaseMismatch, match="a part of this base, 'lin'"): MultiTask(model, dict(a=task))
    with MultiTask(model.lin, dict(a=task)) as many: assert many.mask('a')==mask

@pytest.mark.parametrize('meddle', [lambda m: m.lin.weight.detach().add_(1), lambda m: m.half(),
    lambda m: m.load_state_dict(net(1).state_dict()), lambda m: setattr(m, 'lin', nn.Linear(8, 8)), lambda m: apply_mask(m, draw(m, 3))])
@pytest.mark.parametrize('task', ['a', 'dense'])
def test_changes_from_outside_are_not_undone_silently(meddle, task):
    model = net()
    many = MultiTask(model, dict(a=draw(model), b=draw(model, 1)))
    many.use(task)
    meddle(model)
    for f in (lambda: many.use('b'), lambda: many(ids()), lambda: many.add('c', draw(net()))):
        with pytest.raises(RuntimeError, match='changed since the last switch'): f()
    after = bits(model)
    if task=='dense':
        many.close()
        assert same(bits(model), after)
    else:
        with pytest.warns(UserWarning, match="are the base's again"): many.close()
        assert torch.equal(model.emb.weight.float(), net().emb.weight.to(model.emb.weight.dtype).float())

def test_saving_in_a_task_warns(tmp_path):
    model = net()
    before,many = fingerprint(model),MultiTask(model, dict(a=draw(model)))
    many.use('a')
    whole = nn.Sequential(model, nn.Linear(2, 2))
    for m in (model, whole):
        with pytest.warns(UserWarning, match="mask of the task 'a' written in"): m.state_dict()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    with pytest.warns(UserWarning, match="mask of the task 'a' written in"): twin.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with many.use('dense'): model.state_dict()
        many.close()
        model.state_dict()
    assert fingerprint(model)==before and not model._state_dict_pre_hooks

def test_forgotten_without_closing():
    model = net()
    before,many = bits(model),MultiTask(model, dict(a=draw(model)))
    many.use('a')
    del many
    gc.collect()
    assert same(bits(model), before)
    MultiTask(model).close()

# Heads and files

def test_head_of_another_kind(tiny, tokens):
    "A model of transformers' own, one for each task, around the same encoder"
    def make(seed):
        model = tiny('Bert', 'ForSequenceClassification', seed=seed)
        return model
    first,second = make(0),make(1)
    second.bert = first.bert
    head = {n: t.clone() for n,t in make(7).state_dict().items() if n.startswith('classifier')}
    task = TaskMask(draw(first.bert, 1), first.bert, head)
    many = MultiTask(first)
    with pytest.raises(ValueError, match='answers for another task'): many.add('a', task, model=first)
    many.add('a', task, model=second)
    assert torch.equal(second.classifier.weight, head['classifier.weight']) and not torch.equal(first.classifier.weight, head['classifier.weight'])
    got = many(**tokens, tasks=['a', 'dense', 'a', 'dense'])
    with torch.no_grad(): want = first(**{k: v[[1, 3]] for k,v in tokens.items()}).logits
    assert torch.equal(torch.stack(got[1::2]), want)

def test_damaged_number_of_outputs(tiny):
    enc = tiny('Bert')
    task = adapted(enc, 1, 2)
    task.info['n_out'] = 3
    with pytest.raises(MaskFileError, match='3 outputs, and it has 2'): MultiTask(enc, dict(a=task))

def test_from_files(tiny, tokens, tmp_path):
    enc = tiny('Bert')
    tasks = dict(two=adapted(enc, 1, 2), three=adapted(enc, 2, 3))
    tasks['two'].save_pretrained(tmp_path/'two')
    tasks['three'].save_pretrained(tmp_path/'three', reference=enc)
    rows = ['two', 'three', 'dense', 'two']
    with MultiTask(enc, tasks) as many: want = many(**tokens, tasks=rows)
    for files in ([tmp_path/'two', str(tmp_path/'three')], dict(two=tmp_path/'two', three=tmp_path/'three')):
        with MultiTask.from_pretrained(files, enc) as many:
            assert many.tasks==['dense', 'two', 'three']
            assert all(torch.equal(a, b) for a,b in zip(many(**tokens, tasks=rows), want))
    with MultiTask(enc, dict(two=tasks['two'])) as many:
        many.use('two')
        many.add('three', tmp_path/'three')
        assert many.mask('three')==tasks['three'].mask
    for bad in ([], {}, [tmp_path/'two', tmp_path/'two']):
        with pytest.raises(ValueError, match='at least one mask file'): MultiTask.from_pretrained(bad, enc)
    with pytest.raises(ValueError, match='does not say which base'): MultiTask.from_pretrained([tmp_path/'two'])

def test_from_a_folder_with_the_base(tiny, tokens, tmp_path):
    from adaptprune.head import load_encoder
    tiny('Bert').save_pretrained(tmp_path/'base')
    enc = load_encoder(str(tmp_path/'base'))
    adapted(enc, 1, 2).save_pretrained(tmp_path/'task')
    with MultiTask.from_pretrained([tmp_path/'task'], str(tmp_path/'base')) as many: assert many(**tokens, tasks='task').logits.shape==(4, 2)

@pytest.mark.weights
def test_minilm_named_by_the_file(tmp_path):
    from adaptprune.head import load_encoder
    from adaptprune.published import published
    enc = load_encoder('minilm')
    task = adapted(enc, 1, 2)
    task.base.update(model=published['minilm'].id, revision=published['minilm'].revision)
    task.save_pretrained(tmp_path/'task')
    with MultiTask.from_pretrained([tmp_path/'task']) as many:
        x = dict(input_ids=torch.tensor([[101, 2023, 102]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
        many.use('task')
        assert torch.equal(many(**x).logits, task.load_model(enc)(**x).logits)

def test_memory(tiny):
    enc = tiny('Bert')
    many = MultiTask(enc, dict(a=adapted(enc, 1, 2), b=draw(enc, 2)))
    m = many.memory()
    assert set(m['masks'])==set(m['heads'])=={'dense', 'a', 'b'} and m['masks']['dense']==m['heads']['dense']==m['heads']['b']==0
    assert m['heads']['a']==sum(t.nbytes for t in adapted(enc, 1, 2).head.values())
    assert m['masks']['a']==sum(-(-p.numel()//32)*4 for n,p in enc.named_parameters() if p.ndim==2)
    assert m['pristine']==sum(p.nbytes for n,p in enc.named_parameters() if p.ndim==2)
    with pytest.raises(ValueError, match='has no mask'): many.mask('dense')

# Any order

steps = st.lists(st.tuples(st.sampled_from(['open', 'close', 'add', 'use', 'block', 'remove', 'mixed']), st.integers(0, 3)), max_size=14)

@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(todo=steps)
def test_any_order_leaves_the_base(todo):
    "Open, add, use, remove and close in a random order; what is refused changes nothing"
    model = net()
    before,flags,kinds = bits(model),{n: p.requires_grad for n,p in model.named_parameters()},[type(m) for m in model.modules()]
    many = None
    for what,i in todo:
        try:
            if what=='open': many = many or MultiTask(model)
            elif many is None: continue
            elif what=='close': many = many.close()
            elif what=='add': many.add(f't{i}', draw(net(), i, weights=['all', 'lin*', 'emb*', 'all'][i]))
            elif what=='use': many.use(f't{i}' if i else 'dense')
            elif what=='remove': many.remove(f't{i}')
            elif what=='mixed': many(ids(3), tasks=['dense', f't{i}', 'dense'])
            else:
                with many.use(f't{i}'): many(ids())
        except ValueError as e: assert any(w in str(e) for w in ('No task', 'already', 'in use', 'always there')), e
        if many and many.task=='dense': assert same(bits(model), before)
    if many: many.close()
    assert same(bits(model), before) and [type(m) for m in model.modules()]==kinds
    assert {n: p.requires_grad for n,p in model.named_parameters()}==flags and not model._state_dict_pre_hooks
