"Tests run offline, on one thread, and hypothesis draws the same examples on every run."
import gc,os,sys
from pathlib import Path
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('OMP_NUM_THREADS', '1')
import pytest,torch,transformers
from hypothesis import settings
from adaptprune import card
from adaptprune.timing import interleaved
from nursery import nursery

torch.set_num_threads(1)
settings.register_profile('same', deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile('same')

size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50, max_position_embeddings=40)
gpt2 = dict(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=0)
configs = {
    'Bert': size, 'Roberta': dict(size, pad_token_id=1), 'Electra': dict(size, embedding_size=8), 'Albert': dict(size, embedding_size=8),
    'DistilBert': dict(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=40), 'GPT2': gpt2}

real_glue = Path(os.environ.get('GLUE_DIR') or Path(__file__).resolve().parents[2]/'shared'/'glue')

def pytest_collection_modifyitems(items):
    "What takes long goes first, so that no core waits for it at the end; what needs GLUE says so where it is absent"
    items.sort(key=lambda item: item.get_closest_marker('slow') is None)
    without = pytest.mark.skip(reason='no GLUE folder: set GLUE_DIR, or put one at ../shared/glue')
    for item in items:
        if item.get_closest_marker('glue') and not real_glue.is_dir(): item.add_marker(without)

seen = set()

def pytest_runtest_setup(item):
    "What is imported by now stays to the end: no later collection of garbage, and libraries ask for many, goes through it again"
    if item.fspath not in seen:
        seen.add(item.fspath)
        gc.collect()
        gc.freeze()

@pytest.fixture(autouse=True)
def few_turns(monkeypatch):
    "The times of a report card are of few turns here: what they are is not what is tested"
    monkeypatch.setattr(card, 'interleaved', lambda runs, batch, rounds: interleaved(runs, batch, min(rounds, 3), turn=0.))

@pytest.fixture(scope='session')
def glue_dir(): return str(real_glue)

@pytest.fixture(scope='session')
def tiny():
    "A function that makes a tiny random model of a family, the same each time: `tiny('Bert')`, `tiny('Bert', 'ForMaskedLM')`"
    def make(family, kind='Model', seed=0, **changes):
        torch.manual_seed(seed)
        config = getattr(transformers, f'{family}Config')(**dict(configs[family], **changes))
        return getattr(transformers, family+kind)(config).eval()
    return make

@pytest.fixture(scope='session')
def tokens(): return dict(input_ids=torch.randint(2, 50, (4, 7), generator=torch.Generator().manual_seed(0)), attention_mask=torch.tensor([[1]*7]*3+[[1]*5+[0]*2]))

@pytest.fixture(scope='session')
def folder(tiny, tmp_path_factory):
    "A tiny random BERT and its tokenizer on disk"
    path = tmp_path_factory.mktemp('tiny')
    vocab = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghij']
    (path/'vocab.txt').write_text('\n'.join(vocab))
    tiny('Bert', num_hidden_layers=1).save_pretrained(path)
    transformers.BertTokenizer(vocab={w: i for i,w in enumerate(vocab)}).save_pretrained(path)
    return str(path)

@pytest.fixture(scope='session')
def warm():
    "Forks of a process that has imported adaptprune, and has made no model"
    with nursery('import adaptprune.predict') as run: yield run

@pytest.fixture
def elsewhere(warm, tmp_path):
    "A function that runs code in another process"
    def run(code, *args, cwd=tmp_path):
        assert warm(code, cwd, args)==0, (Path(cwd)/'stderr').read_text()[-3000:]
    return run

@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    "A function that runs a command in an empty folder; what it prints, or the line of its error"
    from adaptprune import cli
    monkeypatch.chdir(tmp_path)
    def run(*args, fails=False):
        monkeypatch.setattr(sys, 'argv', ['adaptprune', *map(str, args)])
        code = 0
        try: cli.main()
        except SystemExit as e: code = e.code or 0
        out = capsys.readouterr()
        assert bool(code)==fails, out.err
        return out.err if fails else out.out
    return run
