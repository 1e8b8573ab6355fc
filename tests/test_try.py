"The page *Try it*: its tokenizer reads as that of Hugging Face, its networks answer as in Python, and what is missing is said."
import json,os,shutil,subprocess,sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest,torch
from hypothesis import given,strategies as st
from adaptprune.head import AdaptModel,load_tokenizer
from adaptprune.layer import apply_mask
from adaptprune.prune import random_mask
from adaptprune.tasks import get_task,load_task

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
pytest.importorskip('onnxruntime', reason='the extra onnx is not installed')
pytest.importorskip('websocket', reason='websocket-client, by which Chromium is told what to do, is not installed')
import chromium,try_page

pytestmark = pytest.mark.weights
needs_node = pytest.mark.skipif(not shutil.which('node'), reason='node is not installed')
needs_browser = pytest.mark.skipif(not chromium.program, reason='Chromium is not installed')

@pytest.fixture(scope='module')
def tokenizer(): return load_tokenizer('minilm')

# The tokenizer ---------------------------------------------------------------------------------------

hostile = ['', ' ', '\n\t ', 'a', 'Été déjà vu', 'naïve façade', 'e\u0301te\u0301', 'İstanbul ΣΑΣ Straße ﬁn', '你好，世界', 'カタカナ ひらがな 한국어', '𠀀𪚥',
    'Привет, мир!', 'שָׁלוֹם', 'مرحبا بالعالم', 'हिन्दी', 'ไทย', '🙂', '👩‍👩‍👧 family', '🏳️‍🌈🇫🇷', 'a🙂b', 'x'*100, 'x'*101, 'x'*500, 'un'*60, '!'*40, '...', "don't", 'well-known',
    '[CLS]', 'a [SEP] b', '[sep]', '[MASK][MASK]', '[[UNK]]', '[ CLS ]', '##ing', '# #', '$5.00 £3 €2', '1,000,000', '3.14e-10', 'C++ && D', '<b>tag</b>', 'a\u00a0b', 'a\u200bb',
    'a\u200db', 'a\ufeffb', 'a\x00b', 'a\x0bb\x0cc\x85d', 'a\ufffdb', 'a\u2028b\u2029c', 'a\u3000b', 'tab\tnew\nline\r\n', '“quoted” ‘it’ — en–dash…', '¿Qué? ¡No!', '«a» ‹b›',
    '½ ² ™ © ®', 'ǅ Ǆ ǆ', 'ﷺ', '٣٤٥', '①②', 'Ａｂｃ', 'Å Å', 'o\u0308\u0323', 'q\u0307\u0323', '\u0301a', '`~^|\\', 'e-mail: a.b@c.de', 'https://x.org/a?b=c#d', '\ue000private',
    'word '*300, 'I l o v e i t', 'supercalifragilisticexpialidocious', 'Ünïcödé', 'ŁÓDŹ', 'ß ẞ', 'ŉ', 'ΐ', '\u1e9b\u0323', '가', '각', '가\u11a8']

def in_node(tokenizer, rows):
    "What the page's tokenizer makes of texts and pairs"
    vocab = tokenizer.get_vocab()
    code = """const {WordPiece} = require(process.argv[1]), {vocab, rows} = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const t = new WordPiece(vocab, 128);
console.log(JSON.stringify(rows.map(r => t.encode(...r))));"""
    given = json.dumps(dict(vocab=sorted(vocab, key=vocab.get), rows=rows))
    r = subprocess.run(['node', '-e', code, str(root/'docs'/'_static'/'wordpiece.js')], input=given, capture_output=True, text=True, check=True)
    return json.loads(r.stdout)

def differ(tokenizer, rows):
    "Rows that are read in another way"
    got = in_node(tokenizer, rows)
    def want(row): return tokenizer(*row, truncation=True, max_length=128, padding=False)
    return [row for row,g in zip(rows, got) for w in [want(row)] if (g['ids'], g['types'])!=(w['input_ids'], w['token_type_ids'])]

@needs_node
def test_hostile_texts(tokenizer): assert differ(tokenizer, [[t] for t in hostile])==[]

@needs_node
def test_hostile_pairs_and_truncation(tokenizer):
    "The longer text loses first; an odd number left over goes to the second"
    words = ['word '*n for n in (1, 60, 62, 63, 64, 100, 124, 125, 126, 200)]
    pairs = [[a, b] for a in words for b in words]+[[a, b] for a,b in zip(hostile, reversed(hostile)) if b]
    assert differ(tokenizer, pairs)==[]

@needs_node
def test_texts_of_the_tasks(tokenizer):
    rows = [list(t) if isinstance(t, tuple) else [t] for n in try_page.sources['mini'] for t in try_page.texts_of(load_task(n)['train'])]
    assert len(rows)>1000 and differ(tokenizer, rows)==[]

@needs_node
def test_random_texts(tokenizer):
    "Characters of all kinds that were there in 2015, mixed"
    rng = np.random.default_rng(0)
    ranges = [(1, 0x250), (0x300, 0x370), (0x390, 0x530), (0x5d0, 0x5eb), (0x620, 0x660), (0x2000, 0x2070), (0x3040, 0x30ff), (0x4e00, 0x9fa0), (0xac00, 0xd7a0), (0x1f300, 0x1f580)]
    def text(): return ''.join(chr(rng.integers(*ranges[rng.integers(len(ranges))])) for _ in range(rng.integers(1, 40)))
    assert differ(tokenizer, [[text()] for _ in range(600)])==[]

@needs_node
def test_characters_one_by_one(tokenizer):
    "Only characters that Unicode got after 2015, or of rare scripts, are read in another way: none of the vocabulary's"
    chars = [chr(c) for c in range(1, 0x20000) if not 0xd800<=c<0xe000]
    known = set(''.join(tokenizer.get_vocab()))
    bad = [row[0][1] for row in differ(tokenizer, [[f'a{c}b'] for c in chars])]
    assert len(bad)<700 and not known & set(bad)

# Files -----------------------------------------------------------------------------------------------

def test_parts_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(try_page, 'chunk', 400)
    data = np.random.default_rng(0).bytes(1500)
    about = try_page.write_part(tmp_path, 'x', data)
    assert about['files']>3 and about['bytes']==1500 and try_page.read_part(tmp_path, 'x', about['files'])==data

@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_mask_clears_bytes_of_its_ranges_only(kept):
    base,bits = bytes(range(1, 21)),np.packbits(kept).tobytes()
    got = try_page.masked_base(base, bits, [[2, 5], [10, 7]])
    at = [*range(2, 7), *range(10, 17)]
    assert [got[i] for i in at]==[base[i]*k for i,k in zip(at, kept)]
    assert [got[i] for i in range(20) if i not in at]==[base[i] for i in range(20) if i not in at]

def test_each_task_has_the_same_say_in_the_structure():
    a,b = dict(x=torch.tensor([1., 3.])), dict(x=torch.tensor([600., 200.]))
    assert torch.allclose(try_page.joint([a, b])['x'], torch.tensor([1., 1.]))

def tiny_task(name, base, tokenizer, seed):
    "A task with a random mask and head on a base"
    torch.manual_seed(seed)
    model = AdaptModel(base, max(1, get_task(name).num_labels)).eval()
    torch.nn.init.normal_(model.head.mlp[-1].weight)
    apply_mask(model.encoder, random_mask(model.encoder, .4, 'encoder', seed=seed))
    rows = load_task(name)
    return SimpleNamespace(task=get_task(name), model=model, tokenizer=tokenizer, data={k: v.select(range(40)) for k,v in rows.items()})

@pytest.fixture(scope='module')
def tiny_files(tiny, tokenizer, tmp_path_factory):
    "The files of a page whose network is small and random"
    try: try_page.cache.mkdir(exist_ok=True); try_page.fetch_ort()
    except (SystemExit, subprocess.CalledProcessError) as e: pytest.skip(f'onnxruntime-web is not here: {e}')
    def base(): return tiny('Bert', vocab_size=len(tokenizer), max_position_embeddings=128)
    names = try_page.sources['mini']
    report = lambda t: dict(metrics={t.metric: 0.}, teacher_metrics={t.metric: 0.}, steps=0, teacher_steps=0)
    learnt = SimpleNamespace(tasks=names, setups=[tiny_task(n, base(), tokenizer, i) for i,n in enumerate(names)], before=base().state_dict(),
        reports=[report(get_task(n)) for n in names], cuts=dict(removed=0.))
    folder = tmp_path_factory.mktemp('site')/'try'
    try_page.write(learnt, folder, bound=-2)
    return folder

@pytest.fixture(scope='module', params=['tiny', 'built'])
def files(request):
    "The files of a page: small and random ones, and those of `make try` where they are"
    if request.param=='tiny': return request.getfixturevalue('tiny_files')
    folder = try_page.cache/'try'
    if not (folder/'manifest.js').exists(): pytest.skip('the networks are not here: make try')
    return folder

def test_base_is_shared(tiny_files):
    about = try_page.read_manifest(tiny_files)
    own = [about['parts'][f"{t['name']}-graph"]['bytes'] for t in about['tasks']]
    assert max(own)*2<about['parts']['base']['bytes'] and len(about['ranges'])==12
    assert len({try_page.read_part(tiny_files, f"{t['name']}-mask", 1) for t in about['tasks']})==2

# In the browser --------------------------------------------------------------------------------------

def questions(files):
    "Dozens of texts and pairs, ordinary and hostile"
    def some(t):
        rows = [list(r) if isinstance(r, tuple) else [r] for r in try_page.texts_of(load_task(try_page.sources['mini'][t['texts']-1])['dev'])[:30]]
        odd = [h for h in hostile if h.strip()][:20]
        return [[t['name'], r] for r in rows+[[o]*t['texts'] for o in odd]]
    return [q for t in try_page.read_manifest(files)['tasks'] for q in some(t)]

@needs_browser
def test_browser_answers_as_python(files, tokenizer):
    found = try_page.agreement(files, questions(files), tokenizer)
    assert found['examples']==100 and found['same_class']>=.98 and found['difference']<.02 and found['median_difference']<1e-3 and found['ms']>0

@pytest.fixture
def page(tmp_path):
    "A function that opens the page in Chromium, with the files of a folder"
    with chromium.Chromium() as c:
        def open(files):
            try_page.plain_page(tmp_path/'page.html', files)
            c.open((tmp_path/'page.html').as_uri())
            c.js('adaptprunePage.opened')
            return c
        yield open

def seen(c): return c.js('document.getElementById("try-it").innerText')

@needs_browser
def test_a_reader_types_a_sentence(page, files, tokenizer):
    c = page(files)
    assert 'Load the networks' in seen(c)
    c.js('document.querySelector(".try-go").click()')
    for task in try_page.read_manifest(files)['tasks']:
        tab = f'document.querySelector(".try-tabs [data-task={task["name"]}]")'
        c.until(tab)
        c.js(f'{tab}.click()')
        assert c.js(f'{tab}.getAttribute("aria-pressed")')=='true'
        texts = ['I have never seen a better film.', 'The film is superb.'][:task['texts']]
        c.js(f"document.querySelectorAll('textarea').forEach((b, i) => {{ b.value = {json.dumps(texts)}[i]; b.dispatchEvent(new Event('input')); }})")
        want = try_page.Answers(files, task['name'], tokenizer).value(tuple(texts))
        share = want if len(want)>1 else np.clip(want/task['top'], 0, 1)
        near = json.dumps([float(100*x) for x in share])
        c.until(f'[...document.querySelectorAll(".try-fill")].every((b, i) => Math.abs(parseFloat(b.style.width)-{near}[i])<.5)')
        if len(want)>1 and np.ptp(want)>.01: assert c.js('document.querySelector(".try-label").innerText')==task['labels'][want.argmax()]
        assert ' ms in this browser' in seen(c)
    assert c.errors==[]

@needs_browser
def test_a_page_without_networks_says_how_to_make_them(page, tmp_path):
    said = seen(page(tmp_path/'none'))
    assert 'make try' in said and 'make docs' in said and 'Load' not in said

@needs_browser
def test_a_lost_or_broken_file_is_named(page, tiny_files, tmp_path):
    bad = shutil.copytree(tiny_files, tmp_path/'bad')
    (bad/'base-0.js').unlink()
    c = page(bad)
    c.js('adaptprunePage.start()')
    assert 'The file try/base-0.js is missing' in seen(c) and 'Try again' in seen(c)
    whole = (tiny_files/'base-0.js').read_text()
    (bad/'base-0.js').write_text(whole[:600]+('A' if whole[600]!='A' else 'B')+whole[601:])
    c.js('adaptprunePage.start()')
    assert 'It did not work' in seen(c)
    shutil.copy(tiny_files/'base-0.js', bad)
    c.js('adaptprunePage.start()')
    c.until('document.querySelector(".try-ms")')

@pytest.mark.parametrize('args, offline', [([], '1'), (['--glue-dir', 'glue'], '1'), (['--glue-dir', 'hub'], None), (['--glue-dir=hub'], None)])
def test_only_the_hub_is_asked_when_it_is_named(args, offline):
    "The published page learns GLUE from the Hub, so its command must not be offline; every other one is"
    code = f"import os,sys; sys.argv = ['try_page.py', *{args}]; sys.path.insert(0, 'tools'); import try_page; print(os.environ.get('HF_HUB_OFFLINE'))"
    env = {k: v for k,v in os.environ.items() if k!='HF_HUB_OFFLINE'}
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=root, env=env, capture_output=True, text=True).stdout.split()[-1]==str(offline)
