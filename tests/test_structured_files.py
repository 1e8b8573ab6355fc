"Mask files with a structure: compact networks come back bit for bit, on the right base only, also several on one base; damage and malice are refused."
import copy,json,os,random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
import pytest,safetensors.torch,torch
from torch import nn
from adaptprune.artifact import BaseMismatch,MaskFileError,TaskMask,merge_tasks
from adaptprune.codec import streams_of
from adaptprune.compaction import compact
from adaptprune.head import AdaptModel
from adaptprune.identity import base_tensors
from adaptprune.layer import fingerprint
from adaptprune.mask import Mask
from adaptprune.maskfile import compact_shapes,mask_shapes,read_config,units_in
from adaptprune.multitask import MultiTask
from adaptprune.optim import MaskOptimizer
from adaptprune.topology import overlaps
from adaptprune.units import Structure,find_units
from toy import die_at_call
from test_artifact import bombs,data_of,in_child,limited,mutations,put,reseal
from test_artifact import task as toy
from test_units import batch,drawn,make,shape,states

families = 'Bert','MPNet','ModernBert','Llama'

def unit_weights(base): return [f'{n}.weight' for u in find_units(base) for n in u.linears()]

def trained(base, keep, n_out=3, steps=4, weights='encoder', seed=0):
    "A short run on a compact copy of a base"
    tensors = base_tensors(base, {n for n,p in base.named_parameters() if p.ndim==2})
    torch.manual_seed(seed)
    model = compact(AdaptModel(base, n_out), keep)
    ids = torch.randint(3, 60, (8, 9), generator=torch.Generator().manual_seed(seed))
    opt = MaskOptimizer(model.encoder, [*model.head.parameters()], .3, steps, start='rank', weights=weights)
    for _ in range(steps):
        model(input_ids=ids).logits.square().mean().backward()
        opt.step()
        opt.zero_grad()
    mask = opt.mask()
    opt.close()
    report = dict(method='mask', task=f'task{seed}', metrics=dict(accuracy=.5))
    return SimpleNamespace(model=model.eval(), mask=mask, base=model.encoder, base_name='encoder', tensors=tensors, structure=keep, report=report)

def made(family='Bert', seed=0, empty=(), **kwargs):
    "A base, a run on what is left of it, and the run's `TaskMask`"
    base = make(family)
    res = trained(base, drawn(find_units(base), seed, empty), seed=seed, **kwargs)
    return base,res,TaskMask.from_adapted(res)

def same(a, b):
    assert (a.mask,a.info,a.base,a.structure)==(b.mask,b.info,b.base,b.structure) and a.head.keys()==b.head.keys()
    return all(torch.equal(a.head[n], b.head[n]) for n in a.head)

def dense_task(base, seed=9, weights='', n_out=2):
    g = torch.Generator().manual_seed(seed)
    mask = Mask({n: torch.rand(p.shape, generator=g)<.6 for n,p in base.named_parameters() if p.ndim==2 and weights in n})
    torch.manual_seed(seed)
    head = {f'head.{k}': v for k,v in AdaptModel(base, n_out).head.state_dict().items()}
    return TaskMask(mask, base, head, dict(task='dense one', n_out=n_out))

# Round trips

@pytest.mark.parametrize('family', families)
@pytest.mark.parametrize('emptied', [None, 'heads', 'neurons'])
def test_the_trained_network_comes_back(family, emptied, batch, tmp_path):
    base = make(family)
    empty = [next(u.out for u in find_units(base) if u.kind==emptied)] if emptied else []
    base,res,tm = made(family, empty=empty)
    before = fingerprint(base)
    back = TaskMask.from_pretrained(tm.save_pretrained(tmp_path))
    assert same(back, tm) and back.structure==res.structure
    net = back.load_model(base)
    assert fingerprint(base)==before, 'the base stays as it is'
    want = dict(res.model.state_dict())
    assert want.keys()==net.state_dict().keys() and all(torch.equal(t, want[n]) for n,t in net.state_dict().items())
    with torch.no_grad(): assert torch.equal(net(**batch).logits, res.model(**batch).logits)
    assert not {p.data_ptr() for p in net.parameters() if p.numel()} & {p.data_ptr() for p in base.parameters()}
    assert (net.encoder.get_parameter(next(iter(tm.mask)))==0).any()

def test_loaded_by_name_from_a_folder(batch, tmp_path):
    base,res,tm = made()
    base.save_pretrained(tmp_path/'base')
    tm.base['model'] = str(tmp_path/'base')
    with torch.no_grad(): assert torch.equal(tm.load_model()(**batch).logits, res.model(**batch).logits)

def test_a_model_with_a_head_of_its_own(batch):
    base,res,tm = made()
    model = AdaptModel(base, 3)
    small = tm.load_head(tm.compact(model)).eval()
    with torch.no_grad(): assert torch.equal(small(**batch).logits, res.model(**batch).logits)
    assert model.encoder is base and small.head is not model.head

def test_the_same_run_gives_the_same_bytes(tmp_path):
    for name in 'ab': made()[2].save_pretrained(tmp_path/name)
    (tmp_path/'c').mkdir()
    TaskMask.from_pretrained(tmp_path/'a').save_pretrained(tmp_path/'c')
    for name in 'bc': assert all((tmp_path/name/f.name).read_bytes()==f.read_bytes() for f in (tmp_path/'a').glob('[am]*'))

def test_only_files_with_a_structure_have_version_2(tmp_path):
    made()[2].save_pretrained(tmp_path/'a')
    assert read_config(tmp_path/'a')['version']==2
    toy().save_pretrained(tmp_path/'b')
    assert read_config(tmp_path/'b')['version']==1 and 'structure' not in read_config(tmp_path/'b')

@pytest.mark.parametrize('family', families)
def test_sizes_follow_from_names_and_shapes(family):
    base = make(family)
    keep = drawn(find_units(base))
    whole = {n: list(p.shape) for n,p in base.named_parameters() if p.ndim==2}
    units = units_in(keep, whole)
    facts = lambda units: [(u.kind, u.layer, u.out, u.n, u.size, set(u.sources), u.cost) for u in units]
    assert facts(units)==facts(find_units(base))
    assert compact_shapes(units, keep, whole)=={n: list(p.shape) for n,p in compact(base, keep).named_parameters() if p.ndim==2}

def test_a_task_by_hand(tmp_path, batch):
    "A mask, a whole base and a structure are enough"
    base,res,tm = made()
    own = TaskMask(res.mask, base, tm.head, tm.info, res.structure)
    assert own.base['tensors']=={n: tm.base['tensors'][n] for n in own.base['tensors']}
    back = TaskMask.from_pretrained(own.save_pretrained(tmp_path))
    with torch.no_grad(): assert torch.equal(back.load_model(base)(**batch).logits, res.model(**batch).logits)
    with pytest.raises(BaseMismatch, match='in the base and'): TaskMask(Mask({n: m.repeat(1, 2) for n,m in res.mask.items()}), base, structure=res.structure)

@pytest.mark.parametrize('weights', ['encoder', 'all', '*attention*weight'])
def test_masks_of_some_weights(weights, tmp_path, batch):
    base,res,tm = made(weights=weights)
    assert set(tm.base['tensors'])==set(res.mask)|set(unit_weights(base))
    back = TaskMask.from_pretrained(tm.save_pretrained(tmp_path))
    before = fingerprint(base)
    small = back.compact(base, share=True)
    assert fingerprint(base)==before, 'what is masked is not shared'
    with torch.no_grad(): assert torch.equal(back.load_model(base)(**batch).logits, res.model(**batch).logits)
    embedding = small.get_input_embeddings().weight
    assert (embedding is base.get_input_embeddings().weight)==(weights!='all')

def test_from_adapt_task(folder, tmp_path):
    from adaptprune.task import adapt_task
    from toy import own_data
    task,data = own_data(tmp_path)
    res = adapt_task(task, folder, remove=.5, data=data, max_steps=4, batch_size=8, progress=False)
    tm = TaskMask.from_adapted(res)
    back = TaskMask.from_pretrained(tm.save_pretrained(tmp_path/'out'))
    about = back.describe()
    assert about['removed']==res.report['removed'] and about['macs']==res.report['macs']
    assert (about['heads'],about['neurons'])==(res.report['heads'],res.report['neurons'])
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad(): assert torch.equal(back.load_model(folder)(input_ids=ids).logits, res.model(input_ids=ids).logits)

def test_what_a_file_says(tmp_path):
    base,res,tm = made()
    back = TaskMask.from_pretrained(tm.save_pretrained(tmp_path))
    counts = back.kept,back.sparsity,back.numel,back.by('matrix')
    about = back.describe()
    assert back._mask is None, 'nothing is decoded for it'
    assert counts==(res.mask.kept,res.mask.sparsity,res.mask.numel,res.mask.by('matrix'))
    linear = lambda m: sum(p.numel() for n,p in m.named_parameters() if '.layer.' in n and p.ndim==2)
    assert about['macs']==[linear(base), linear(res.base)] and about['removed']==1-linear(res.base)/linear(base)
    assert about['heads']==[l.attention.self.num_attention_heads for l in res.base.encoder.layer]
    assert about['neurons']==[l.output.dense.in_features for l in res.base.encoder.layer]
    files = sum(f.stat().st_size for f in tmp_path.glob('[am]*'))
    assert about['bytes']==files-about['head_bytes'] and about['head_bytes']==sum(t.nbytes for t in tm.head.values())
    card = back.model_card()
    for said in (f"{about['removed']:.1%} of the multiply-accumulates", f"{about['heads']} heads", f"{about['neurons']} neurons", f"{about['bytes']:,} bytes"):
        assert said in card
    assert 'multiply-accumulates' not in toy().model_card() and 'removed' not in toy().describe() and 'removed' in repr(back)

# The right base, and the right kind of network

def test_the_base_is_checked_before_anything_is_cut(tmp_path):
    base,res,tm = made()
    for n in (next(iter(tm.mask)), unit_weights(base)[-1]):
        other = copy.deepcopy(base)
        with torch.no_grad(): other.get_parameter(n)[0,0] += 1
        with pytest.raises(BaseMismatch, match=f'{n} holds other values'): tm.load_model(other)
        with pytest.raises(BaseMismatch, match='holds other values'): MultiTask(other, dict(a=tm))
    with pytest.warns(UserWarning, match='holds other values'): tm.load_model(other, check=False)
    with pytest.raises(BaseMismatch, match='has shape|is missing'): tm.load_model(make('Bert', intermediate_size=48))
    with pytest.raises(BaseMismatch, match='is missing'): tm.load_model(make('Llama'), check=False)

def test_a_row_that_is_cut_counts_as_well():
    "The hashes are of whole matrices: a base that differs only in what is cut away is another base"
    base,res,tm = made()
    u = find_units(base)[0]
    gone = int((~res.structure[u.out]).nonzero()[0])
    with torch.no_grad(): base.get_submodule(u.out).weight[0,gone*u.size] += 1
    with pytest.raises(BaseMismatch, match='1 of '): tm.load_model(base)

def test_the_wrong_kind_of_network(batch):
    base,res,tm = made()
    dense = dense_task(base)
    small = tm.load_model(base)
    before = fingerprint(base),fingerprint(small)
    for model in (base, AdaptModel(base, 3)):
        with pytest.raises(BaseMismatch, match=r'cannot be put on in place: `load_model\(base\)`'): tm.apply(model)
    for model in (small, small.encoder):
        with pytest.raises(BaseMismatch, match='lost heads and neurons already'): dense.apply(model)
        with pytest.raises(BaseMismatch, match='lost heads and neurons already'): dense.apply(model, check=False)
        with pytest.raises(BaseMismatch, match='lost heads and neurons already'): tm.compact(model)
        with pytest.raises(BaseMismatch, match='made compact with another structure'): made(seed=5)[2].apply(model)
        with pytest.raises(BaseMismatch, match='cannot be checked any more'): tm.apply(model)
    with pytest.raises(ValueError, match='has no structure'): dense.compact(base)
    with pytest.raises(BaseMismatch, match='lost heads and neurons already'): MultiTask(small.encoder, dict(a=tm))
    assert before==(fingerprint(base),fingerprint(small))
    by_hand = compact(base, res.structure)
    tm.apply(by_hand, check=False)
    with torch.no_grad(): assert torch.equal(states(by_hand, batch), states(small.encoder, batch))

def test_where_a_structured_mask_cannot_take_part(tmp_path):
    base,res,tm = made()
    other = made(seed=1)[2]
    dense = dense_task(base)
    for pair in ([tm, other], [dense, tm], [tm, dense]):
        with pytest.raises(ValueError, match='has a structure of its own.*MultiTask'): merge_tasks(pair)
    for reference in (other, dense, base):
        with pytest.raises(ValueError, match='stored on its own'): tm.save_pretrained(tmp_path, reference=reference)
    with pytest.raises(ValueError, match='reference has a structure'): dense.save_pretrained(tmp_path, reference=tm)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError): overlaps(dict(a=tm.mask, b=other.mask))
    with pytest.raises(ValueError): overlaps(dict(a=tm.mask, b=dense.mask))
    with pytest.raises(ValueError, match='differ in'): tm.mask & other.mask

def test_the_base_must_be_the_base_model():
    class Odd(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.encoder = inner
    base,res,tm = made()
    tm.info['base_name'] = 'encoder'
    with pytest.raises(BaseMismatch, match="a part of this model \\('encoder'\\)"): tm.compact(Odd(base))

# Several on one base

def shared(model, base):
    "Bytes of a model's parameters that lie in the base's memory, and all of them"
    theirs = {p.untyped_storage().data_ptr() for p in base.parameters()}
    ps = [p for p in model.parameters() if p.numel()]
    return sum(p.nbytes for p in ps if p.untyped_storage().data_ptr() in theirs),sum(p.nbytes for p in ps)

def held_bytes(models):
    "Bytes of memory behind the parameters of some models, each counted once"
    return sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in models for p in m.parameters() if p.numel()}.values())

@pytest.mark.parametrize('family', families)
def test_compact_and_dense_tasks_on_one_base(family, batch, tmp_path):
    base,_,first = made(family)
    tasks = dict(first=first, second=made(family, seed=1)[2], dense_all=dense_task(base), dense_part=dense_task(base, 7, 'embed'))
    want = {n: t.load_model(copy.deepcopy(base)) for n,t in tasks.items()}
    for n,t in tasks.items(): t.save_pretrained(tmp_path/n)
    before = fingerprint(base)
    rows = ['second', 'dense_all', 'first', 'dense_part']
    with MultiTask.from_pretrained([tmp_path/n for n in tasks], base) as many, torch.no_grad():
        for order in (tasks, reversed(tasks), ['dense_all', 'first', 'dense_part', 'second', 'dense_all']):
            for n in order: assert torch.equal(many(**batch, tasks=n).logits, want[n](**batch).logits), n
        mixed = many(**batch, tasks=rows)
        for i,n in enumerate(rows):
            assert torch.equal(mixed[i], want[n](**{k: v[i:i+1] for k,v in batch.items()}).logits[0])
        two = many(**batch, tasks=['first', 'second', 'first', 'second'])
        assert torch.equal(torch.stack(two[::2]), want['first'](**{k: v[::2] for k,v in batch.items()}).logits)
        for n in ('first', 'dense_all', 'second'):
            with many.use(n): assert torch.equal(many(**batch).logits, want[n](**batch).logits) and many.model is not base
        assert many.task=='dense' and fingerprint(base)==before
    assert fingerprint(base)==before and not base._forward_pre_hooks

def test_what_several_tasks_hold():
    base = make('Bert')
    tasks = {f't{i}': made(seed=i)[2] for i in range(3)}
    many = MultiTask(base, tasks)
    models = [many._tasks[n].model for n in tasks]
    memory = many.memory()
    for n,m in zip(tasks, models):
        assert m.encoder.get_input_embeddings().weight is base.get_input_embeddings().weight
        norm = 'encoder.layer.1.output.LayerNorm.weight'
        assert m.encoder.get_parameter(norm) is base.get_parameter(norm)
        own = {k: p.nbytes for k,p in m.encoder.named_parameters() if not any(p is q for q in base.parameters())}
        cut = set(unit_weights(base))|{w.replace('.weight', '.bias') for u in find_units(base) for s in u.sources for w in [f'{s.name}.weight']}
        assert own.keys()<=cut and memory['compact'][n]==sum(own.values())
        assert memory['heads'][n]==sum(p.nbytes for p in m.head.parameters())
    total = memory['base']+sum(memory['compact'].values())+sum(memory['heads'].values())
    assert held_bytes([base, *models])==total
    alone = held_bytes([t.load_model(base) for t in tasks.values()])
    assert total < alone+memory['base']-3*sum(p.nbytes for p in base.embeddings.parameters())+1
    assert memory['pristine']==0 and memory['compact']['dense']==0 and all(not b for b in memory['masks'].values())

def test_a_dense_mask_does_not_leak_into_a_compact_task(batch):
    "A compact task shares embeddings that a dense one writes zeros into"
    base,res,tm = made()
    other = made(seed=3)[2]
    with MultiTask(base, dict(compact=tm, dense_one=dense_task(base))) as many, torch.no_grad():
        many.use('dense_one')
        assert (base.get_input_embeddings().weight==0).any()
        assert torch.equal(many(**batch, tasks='compact').logits, res.model(**batch).logits)
        assert many.task=='dense_one' and (base.get_input_embeddings().weight==0).any()
        many.add('another', other)
        assert (many._tasks['another'].small.encoder.layer[0].output.LayerNorm.weight!=0).all() and many.task=='dense_one'

def test_a_call_of_the_base_is_not_taken_for_the_compact_network(batch):
    base,res,tm = made()
    with MultiTask(base, dict(a=tm)) as many:
        with many.use('a'):
            with pytest.raises(RuntimeError, match="'a', is compact: its network is not this base"): base(**batch)
            with torch.no_grad(): assert torch.equal(many.model(**batch).logits, res.model(**batch).logits)
        base(**batch)
        with pytest.raises(ValueError, match='read it from its file'): many.mask('a')
        many.remove('a')
        assert not base._forward_pre_hooks
    base(**batch)

def test_no_warning_for_the_state_of_the_base(recwarn):
    base,_,tm = made()
    recwarn.clear() # of weights that look untrained: the base is random
    with MultiTask(base, dict(a=tm)) as many, many.use('a'): base.state_dict()
    assert not recwarn.list

@pytest.mark.parametrize('name', ['encoder.layer.0.output.dense.weight', 'embeddings.word_embeddings.weight'])
def test_a_base_that_is_changed_is_noticed(name, batch):
    base,_,tm = made()
    many = MultiTask(base, dict(a=tm, b=dense_task(base, weights='attention')))
    many.use('b')
    many.use('a')
    with torch.no_grad(): base.get_parameter(name).add_(1)
    for call in (lambda: many.use('b'), lambda: many(**batch, tasks='a'), lambda: many.use('dense')):
        with pytest.raises(RuntimeError, match=f"changed since the last switch, first '{name}'"): call()
    many.close()

def test_pristine_copies_that_come_and_go(batch):
    "What a dense task wrote and put back is no change, also after it was removed"
    base,res,tm = made()
    many = MultiTask(base, dict(a=tm, b=dense_task(base)))
    for n in ('b', 'a', 'b', 'dense'): many.use(n)
    many.remove('b')
    with torch.no_grad(): assert torch.equal(many(**batch, tasks='a').logits, res.model(**batch).logits)
    many.add('b', dense_task(base))
    many.use('b')
    many.use('a')
    many.remove('b')
    many.use('dense')
    many.remove('a')
    with torch.no_grad(): base.embeddings.word_embeddings.weight.add_(0)
    many.use('dense')
    many.close()

def test_a_model_of_your_own_for_a_compact_task(batch):
    base,res,tm = made()
    model = AdaptModel(base, 3).eval()
    head = {n: p.clone() for n,p in model.head.named_parameters()}
    with MultiTask(base) as many:
        many.add('a', tm, model=model)
        with torch.no_grad(): assert torch.equal(many(**batch, tasks='a').logits, res.model(**batch).logits)
        assert all(torch.equal(p, head[n]) for n,p in model.head.named_parameters()), 'the head of your model stays as it is'
        with pytest.raises(ValueError, match='not built around this base'): many.add('b', tm, model=AdaptModel(make('Bert'), 3))
        many.add('bare', TaskMask(tm.mask, tm.base, structure=tm.structure))
        with many.use('bare'), torch.no_grad(): assert torch.equal(states(many.model, batch), states(res.base, batch))

def test_within_inference_mode(batch):
    base,res,tm = made()
    with torch.inference_mode(): many = MultiTask(base, dict(a=tm))
    assert torch.equal(many(**batch, tasks='a').logits, res.model(**batch).logits.detach())
    assert not any(p.is_inference() for p in many._tasks['a'].small.parameters())
    many.close()

# Kills

def test_killed_while_saving(tmp_path):
    "A file with a structure takes the place of one without, or the other way round, as a whole"
    tasks,seen = [toy(),made()[2]],Counter()
    for k in range(1, 30):
        old,new = tasks if k%2 else tasks[::-1]
        old.save_pretrained(tmp_path/str(k))
        def run():
            die_at_call(k//2+1)
            new.save_pretrained(tmp_path/str(k))
            os._exit(0)
        os.waitpid(in_child(run), 0)
        got = TaskMask.from_pretrained(tmp_path/str(k))
        kind = 'new' if (got.structure is None)==(new.structure is None) else 'old'
        assert same(got, dict(new=new, old=old)[kind])
        seen[kind] += 1
    assert min(seen.values())>3, seen

# Damage and malice

def changed(cfg, change):
    c = copy.deepcopy(cfg)
    change(c)
    return c

head0,neurons0 = 'encoder.layer.0.attention.output.dense','encoder.layer.0.output.dense'
query0 = 'encoder.layer.0.attention.self.query.weight'
lies = {
    'no structure': (lambda c: c.pop('structure'), 'should have the fields'),
    'version 1': (lambda c: c.update(version=1), 'should have the fields'),
    'version 3': (lambda c: c.update(version=3), 'reads versions 1 and 2: update'),
    'an empty structure': (lambda c: c.update(structure={}), "'structure' holds"),
    'a reference': (lambda c: c.update(reference=dict(kind='magnitude')), "'reference' holds"),
    'more heads': (lambda c: c['structure'].update({head0: dict(units=5, kept='f8')}), '5 heads cannot share'),
    'heads of other sizes': (lambda c: c['structure'].update({head0: dict(units=8, kept='ff')}), 'the mask of'),
    'all kept': (lambda c: c['structure'].update({head0: dict(units=4, kept='f')}), 'the mask of'),
    'nothing kept there': (lambda c: c['structure'].update({head0: dict(units=4, kept='0')}), 'leaves nothing of'),
    'nothing kept at all': (lambda c: [k.update(kept='0'*len(k['kept'])) for k in c['structure'].values()], 'keeps no unit|leaves nothing'),
    'a million units': (lambda c: c['structure'].update({neurons0: dict(units=2**20, kept='f'*2**18)}), 'neurons cannot share'),
    'too many units': (lambda c: c['structure'].update({neurons0: dict(units=2**40, kept='f')}), "'units' holds"),
    'no units': (lambda c: c['structure'].update({neurons0: dict(units=0, kept='0')}), "'units' holds"),
    'a flag for a number': (lambda c: c['structure'][head0].update(units=True), "'units' holds"),
    'too few digits': (lambda c: c['structure'][neurons0].update(kept='ff'), '10 hexadecimal digits'),
    'bits beyond the end': (lambda c: c['structure'].update({head0: dict(units=2, kept='f')}), 'beyond its 2'),
    'no digits': (lambda c: c['structure'][head0].update(kept='0x'), "'kept' holds"),
    'a place that is none': (lambda c: c['structure'].update({'encoder.layer.7.output.dense': dict(units=4, kept='f')}), 'lists no such matrix'),
    'an embedding': (lambda c: c['structure'].update({'embeddings.word_embeddings': dict(units=4, kept='f')}), 'lists no such matrix'),
    'a source': (lambda c: c['structure'].update({query0[:-7]: dict(units=4, kept='f')}), 'lists no such matrix'),
    'a long name': (lambda c: c['structure'].update({'a'*10**5: dict(units=4, kept='f')}), 'too long'),
    'a long tensor': (lambda c: c['base']['tensors'].update({'a'*10**6: c['base']['tensors'][query0]}), 'too long'),
    'a source less': (lambda c: [c[k].pop(query0) for k in ('mask',)]+[c['base']['tensors'].pop(query0)], '2 matrices compute its heads'),
    'a tensor too many': (lambda c: c['base']['tensors'].update(other=c['base']['tensors'][query0]), 'not the same'),
    'a mask too many': (lambda c: c['mask'].update(other=c['mask'][query0]), 'not the same'),
    'a smaller base': (lambda c: c['base']['tensors'][query0].update(shape=[16, 32]), 'cannot share'),
    'a base without width': (lambda c: c['base']['tensors'][query0].update(shape=[0, 32]), 'cannot share'),
    'a vector': (lambda c: c['base']['tensors'][query0].update(shape=[1024]), 'matrices compute its heads'),
    'a huge base': (lambda c: c['base']['tensors'][query0].update(shape=[2**40, 2**40]), 'more than any file'),
    'more ones': (lambda c: c['mask'][query0].update(ones=10**6), 'declares 1000000 kept'),
    'a layer number of many digits': (lambda c: c['base']['tensors'].update({f'layer.{"9"*250}.x.weight': c['base']['tensors'][query0]}), 'not the same')}

@pytest.fixture(scope='module')
def written(tmp_path_factory):
    "A base, its task, and the two files"
    base,_,tm = made()
    src = tm.save_pretrained(tmp_path_factory.mktemp('written'))
    return base,tm,read_config(src),data_of(src).read_bytes()

@pytest.mark.parametrize('lie', lies)
def test_lies_about_the_structure(lie, written, tmp_path):
    _,_,cfg,data = written
    change,said = lies[lie]
    put(tmp_path, changed(cfg, change), data)
    with pytest.raises(MaskFileError, match=said) as e: TaskMask.from_pretrained(tmp_path).mask
    assert len(str(e.value))<1000

def test_other_units_of_the_same_number_are_refused_or_another_mask(written, tmp_path):
    "A file that keeps other heads is well formed: as with any exchanged contents, it is another network, of the same sizes"
    base,tm,cfg,data = written
    c = copy.deepcopy(cfg)
    bits = tm.structure[neurons0].flip(0)
    c['structure'][neurons0] = Structure({'x': bits}).to_dict()['x']
    put(tmp_path, c, data)
    got = TaskMask.from_pretrained(tmp_path)
    assert got.structure!=tm.structure and got.mask==tm.mask
    net = got.load_model(base)
    assert torch.equal(net.encoder.encoder.layer[0].intermediate.dense.bias, base.encoder.layer[0].intermediate.dense.bias[bits])

def test_a_structure_of_some_layers_only(written, tmp_path):
    "It fits its own tensors, but no base"
    base,tm,cfg,data = written
    gone = f'{neurons0}.weight','encoder.layer.0.intermediate.dense.weight'
    mask = Mask({n: m for n,m in tm.mask.items() if n not in gone})
    tensors = {n: t for n,t in tm.base['tensors'].items() if n not in gone}
    part = Structure({n: k for n,k in tm.structure.items() if n!=neurons0})
    TaskMask(mask, dict(tm.base, tensors=tensors), tm.head, tm.info, part).save_pretrained(tmp_path)
    with pytest.raises(BaseMismatch, match='speaks of other heads or neurons'): TaskMask.from_pretrained(tmp_path).load_model(base)

@pytest.mark.parametrize('n', [300, pytest.param(1500, marks=pytest.mark.slow)])
def test_damaged_files(n, written, tmp_path):
    "Each gives a clear error, or the very task, or (contents exchanged under right hashes) a well-formed other one"
    base,tm,cfg,data = written
    rnd,seen = random.Random(1),Counter()
    for _ in range(n):
        kind,raw,d,name = mutations(cfg, data, rnd)
        for f in tmp_path.iterdir(): f.unlink()
        (tmp_path/name).write_bytes(d)
        (tmp_path/'adaptprune.json').write_bytes(raw)
        try:
            got = TaskMask.from_pretrained(tmp_path)
            got.mask
        except (MaskFileError, FileNotFoundError) as e:
            assert len(str(e))<2000
            seen[kind,'error'] += 1
            continue
        try: net = got.load_model(base)
        except (BaseMismatch, MaskFileError, ValueError) as e: assert kind in ('field', 'drop', 'add', 'header', 'stream'), (kind, e)
        else: assert {k: list(net.encoder.get_parameter(k).shape) for k in got.mask}=={k: list(m.shape) for k,m in got.mask.items()}
        seen[kind,'loads'] += 1
    assert seen['flip config','loads']==seen['flip data','loads']==0 and seen['field','error']>n/20

def test_no_memory_for_empty_claims(written, tmp_path):
    "A small file whose structure and shapes claim billions of weights"
    _,tm,cfg,data = written
    c = copy.deepcopy(cfg)
    wide = 2**16
    for n,s in ((neurons0, [2**14, wide]), ('encoder.layer.0.intermediate.dense', [wide, 2**14])): c['base']['tensors'][f'{n}.weight']['shape'] = s
    c['structure'][neurons0] = dict(units=wide, kept='f'*(wide//4))
    put(tmp_path, c, data)
    assert limited(lambda: TaskMask.from_pretrained(tmp_path).mask, 150*2**20)==0
    put(tmp_path, changed(cfg, lambda c: c['structure'].update({f'encoder.layer.{i}.output.dense': dict(units=2**20, kept='f'*2**18) for i in range(3, 15)})), data)
    assert limited(lambda: TaskMask.from_pretrained(tmp_path), 250*2**20)==0

# MiniLM

@pytest.mark.weights
def test_minilm_at_seventy_per_cent_takes_285_kb(tmp_path):
    "A random mask is the worst case: only its density can be made use of"
    from adaptprune.fisher import choose_units,random_units
    from adaptprune.head import load_encoder
    base = load_encoder('minilm')
    keep = choose_units(find_units(base), random_units(base), .7)
    whole = {n: list(p.shape) for n,p in base.named_parameters() if '.layer.' in n and p.ndim==2}
    shapes = compact_shapes(units_in(keep, whole), keep, whole)
    g = torch.Generator().manual_seed(0)
    mask = Mask.from_scores({n: torch.rand(s, generator=g) for n,s in shapes.items()}, .2)
    tm = TaskMask(mask, base, {f'head.{k}': v for k,v in AdaptModel(base, 2).head.state_dict().items()}, dict(n_out=2), keep)
    tm.save_pretrained(tmp_path)
    streams = sum(s['bytes'] for h in read_config(tmp_path)['mask'].values() for s in streams_of(h))
    bits = sum(map(len, keep.values()))/8
    print(dict(streams=streams, structure=bits, **{k: v for k,v in tm.describe().items() if 'bytes' in k}))
    assert streams+bits <= 285*1024 and tm.describe()['bytes'] <= 300*1024
    net = TaskMask.from_pretrained(tmp_path).load_model('minilm')
    assert all(torch.equal(net.encoder.get_parameter(n)!=0, m) for n,m in mask.items())
