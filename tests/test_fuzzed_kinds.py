"Mask files of every kind of task: bits that flip, files that are cut, parts that are exchanged. Refused, or the very same"
import copy,json,random,shutil
from collections import Counter
import numpy as np,pytest,torch,transformers
from adaptprune.artifact import BaseMismatch,TaskMask
from adaptprune.maskfile import config_name,read_config
from adaptprune.predict import load
from adaptprune.task import adapt_task
from adaptprune.tasks import load_data
from test_artifact import data_of,errors,hostile,mutations,reseal,set_at

kinds = 'classification','regression','multilabel','tokens','pairs','structured','question-answering','masked-lm','causal-lm','vectors'
texts = [f'{"abcd"[i%4]} {"efgh"[i//4%4]} {"ij"[i%2]}' for i in range(40)]

tables = dict(
    classification=[(t, 'xyz'[i%3]) for i,t in enumerate(texts)], regression=[(t, i%7/2) for i,t in enumerate(texts)],
    multilabel=[dict(text=t, labels=[['x'], ['x', 'y'], []][i%3]) for i,t in enumerate(texts)],
    tokens=[dict(tokens=t.split(), tags=['B-P', 'O', 'O']) for t in texts], pairs=[(t, t[::-1], i%2) for i,t in enumerate(texts)],
    structured=[(t, 'xy'[i%2]) for i,t in enumerate(texts)])

def whole_model(kind, path):
    "A model of transformers with half of its base turned off, and its fresh folder"
    cls = {'question-answering': transformers.BertForQuestionAnswering, 'masked-lm': transformers.BertForMaskedLM,
        'causal-lm': transformers.GPT2LMHeadModel}[kind]
    torch.manual_seed(0)
    small = dict(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=40) if 'GPT' in cls.__name__ else dict(vocab_size=50,
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=40)
    model = cls(cls.config_class(**small))
    model.save_pretrained(path)
    model = cls.from_pretrained(path).eval()
    half(model.base_model)
    return model

def half(module):
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim>1: p[p.abs()<p.abs().median()] = 0

def sentences(folder):
    st = pytest.importorskip('sentence_transformers', reason='needs sentence-transformers')
    from sentence_transformers import models
    net = st.SentenceTransformer(modules=[models.Transformer(folder, max_seq_length=12), models.Pooling(16, 'mean')], device='cpu')
    half(net[0].auto_model)
    return net

@pytest.fixture(scope='module')
def made(folder, tmp_path_factory):
    "A function that makes the mask file of a kind, once"
    root,have = tmp_path_factory.mktemp('kinds'), {}
    def make(kind):
        if kind in have: return have[kind]
        if kind in tables:
            task,data = load_data(tables[kind], kind='tokens' if kind=='tokens' else None)
            how = dict(remove=.5, recipe='structured') if kind=='structured' else dict(recipe='default')
            tm = TaskMask.from_adapted(adapt_task(task, folder, data=data, max_steps=2, max_length=12, progress=False, say=str, **how))
        elif kind=='vectors': tm = TaskMask.from_model(sentences(folder), task='near')
        else: tm = TaskMask.from_model(whole_model(kind, root/f'{kind}-base'), task='t', max_length=12)
        tm.save_pretrained(root/kind)
        have[kind] = root/kind
        return have[kind]
    return make

def said(tm):
    "All that a file says, and what its mask and head are"
    return json.dumps(tm.info, sort_keys=True), tm.card, tm.base, {n: m.tolist() for n,m in tm.mask.items()}, {n: t.tolist() for n,t in tm.head.items()}

def put(folder, raw, data, name):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder/config_name).write_bytes(raw)
    (folder/name).write_bytes(data)

@pytest.mark.parametrize('kind', kinds)
def test_damage_is_refused_or_changes_nothing(made, kind, tmp_path):
    src = made(kind)
    cfg,data,want = read_config(src), data_of(src).read_bytes(), said(TaskMask.from_pretrained(src))
    rnd,seen = random.Random(kind), Counter()
    for _ in range(150):
        how,raw,d,name = mutations(cfg, data, rnd)
        put(tmp_path/'x', raw, d, name)
        try: got = said(TaskMask.from_pretrained(tmp_path/'x'))
        except errors as e:
            assert len(str(e))<2000
            seen[how,'refused'] += 1
            continue
        seen[how,'read'] += 1
        if how in ('flip config', 'flip data', 'truncate', 'extend', 'text'): assert got==want, how
    assert not seen['flip config','read']+seen['flip data','read']+seen['truncate','read'] and sum(n for (_,o),n in seen.items() if o=='refused')>75

@pytest.mark.parametrize('kind', kinds)
def test_parts_of_other_kinds_do_not_fit(made, kind, tmp_path):
    "The data of one with the config of another, under right and wrong names"
    mine = made(kind)
    cfg = read_config(mine)
    for other in kinds:
        data = data_of(made(other))
        if other==kind or data.read_bytes()==data_of(mine).read_bytes(): continue
        for name in (cfg['data']['file'], data.name)[:2 if other==kinds[-1] else 1]:        # a missing file is waited for
            put(tmp_path/'x', (mine/config_name).read_bytes(), data.read_bytes(), name)
            with pytest.raises(errors): TaskMask.from_pretrained(tmp_path/'x')

@pytest.mark.parametrize('kind', kinds)
def test_a_wrong_card_never_answers_without_a_word(made, kind, folder, tmp_path):
    "Each field of the card holds something else, under a right checksum: refused by name, or the answers are as many as asked for"
    src = made(kind)
    cfg,data,rnd = read_config(src), data_of(src).read_bytes(), random.Random(1)
    card = cfg['info']['card']
    right = said(TaskMask.from_pretrained(src))[1]
    refused = 0
    for field in card:
        for value in rnd.sample(hostile, 8):
            c = copy.deepcopy(cfg)
            c['info']['card'][field] = value
            put(tmp_path/'x', reseal(c), data, cfg['data']['file'])
            try: tm = TaskMask.from_pretrained(tmp_path/'x')
            except errors:
                refused += 1
                continue
            assert tm.card.n_out==right.n_out and (tm.card.kind==right.kind or field=='kind')
            if kind not in tables: continue
            try: p = load(tm, folder)
            except (ValueError, OSError): continue
            asked = [('a', 'b')]*3 if len(tm.card.text)==2 else ['a', 'b', 'c']
            assert len(p.predict(asked))==3
    assert refused>2*len(card)
