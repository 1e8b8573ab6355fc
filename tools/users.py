"""Be a user: in an empty folder, run the commands and Python blocks that the documentation prints, the pages that can be opened
in Colab, and the command line's tests.
usage: .venv-users/bin/python tools/users.py      (`make users` makes that environment: the wheel, with the newest
                                                  versions of its dependencies and no development pins)

Sizes are small, and something stands in for what a user has: a cut of the mini tasks for PATH, a Hub on this machine for
OWNER/NAME, a table made here for train.csv, sweeps of one short run for sweeps/*.toml. What nothing can stand in for is
only parsed, and the report says so."""
import os,re,shlex,shutil,subprocess,sys,tempfile,time,tomllib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata,resources
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root/'tools'), str(root/'tests')]
from hub_server import Hub,client_env,owner
import colab,printed

# The pages whose Python blocks are run; in each, what is printed and what runs in its place
small_python = {
    'README.md': [
        ("list(task.loaders['train'])*5", "list(task.loaders['train'])"),
        ("remove=.7, out='reviews-mask')", "remove=.7, max_steps=4, out='reviews-mask', force=True)"),
        ("'sst2', 'minilm', sparsity=.5", "'mini-sentiment', 'minilm', max_steps=4")],
    'nbs/tutorials/ten_minutes.ipynb': [("sparsity=.5, out='my-mask')", "sparsity=.5, max_steps=4, out='my-mask', force=True)")]}

def cut(name, n):
    "The header and the first `n` rows of each split of a mini task"
    for split in ('train', 'dev'):
        head,*rows = (resources.files('adaptprune')/'data'/name/f'{split}.tsv').read_text(encoding='utf-8').splitlines()
        yield split, head.split('\t'), rows[:n]

def make_glue(folder):
    "A folder like GLUE's download, with three small tasks"
    likes = {
        'STS-B': ('mini-similarity', 'score', 'dev'),
        'SST-2': ('mini-sentiment', 'label', 'dev'),
        'MNLI': ('mini-inference', 'gold_label', 'dev_matched')}
    for task,(mini,label,dev) in likes.items():
        (folder/task).mkdir(parents=True)
        for split,head,rows in cut(mini, 96):
            lines = ['\t'.join([*head[:-1], label]), *rows]
            name = dev if split=='dev' else split
            (folder/task/f'{name}.tsv').write_text('\n'.join(lines)+'\n', encoding='utf-8')

def make_tables(folder):
    "Somebody's train.csv and dev.csv, reviews.csv and new.csv"
    for name,n in (('train', 80), ('dev', 20)):
        ends = [('a number', 'yes'), ('a word', 'no')]
        rows = [f'"What is {i}, please?","It is {ends[i%2][0]}.",{ends[i%2][1]}' for i in range(n)]
        (folder/f'{name}.csv').write_text('\n'.join(['question,answer,relevant', *rows])+'\n', encoding='utf-8')
    said = [(f'It was {w}, number {i}.', m) for i in range(60) for w,m in (('superb', 'good'), ('dull', 'bad'))]
    (folder/'reviews.csv').write_text('\n'.join(['text,label', *(f'"{t}",{m}' for t,m in said)])+'\n', encoding='utf-8')
    (folder/'new.csv').write_text('\n'.join(['id,text', *(f'{i},"{t}"' for i,(t,_) in enumerate(said[:8]))])+'\n', encoding='utf-8')

def make_model(folder):
    "Somebody's classifier, as `save_pretrained` left it: MiniLM with a head for two classes"
    from adaptprune.head import load_tokenizer, quiet
    from adaptprune.published import model_path
    from transformers import AutoModelForSequenceClassification
    names = dict(id2label={0: 'bad', 1: 'good'}, label2id={'bad': 0, 'good': 1})
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(model_path('minilm'), num_labels=2, **names)
        model.save_pretrained(folder/'my-classifier')
    load_tokenizer('minilm').save_pretrained(folder/'my-classifier')

def make_small(folder):
    "A BERT of two narrow layers, with MiniLM's tokenizer"
    from adaptprune.head import load_tokenizer, quiet
    from transformers import BertConfig, BertModel
    tokenizer = load_tokenizer('minilm')
    size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    with quiet(): BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

def make_sweeps(folder):
    "A sweep of one short run on a small model in place of each that the repository declares, with the same name and output"
    (folder/'sweeps').mkdir()
    make_small(folder/'small-bert')
    for p in (root/'sweeps').glob('*.toml'):
        out = tomllib.loads(p.read_text(encoding='utf-8'))['out']
        run = '[[cells]]\ntask = "stsb"\nmodel = "small-bert"\nrecipe = "default"\nmax_steps = 2\n'
        (folder/'sweeps'/p.name).write_text(f'out = "{out}"\n\n{run}', encoding='utf-8')

def make_own_sweep(folder):
    "mine.toml as the page about settings prints it, of one short run"
    page = printed.markdown(root/'nbs'/'tutorials'/'choosing_settings.ipynb')
    common,_ = re.search(r'^```toml\n(out = "mine.*?)^```', page, re.M|re.S)[1].split('[[cells]]')
    run = 'model = "minilm"\nrecipe = "default"\nmax_steps = 2\n'
    (folder/'mine.toml').write_text(f'{common}[[cells]]\n{run}', encoding='utf-8')

def make_folder(folder):
    "All that stands in for a user's things"
    folder.mkdir()
    make_glue(folder/'glue')
    make_tables(folder)
    make_model(folder)
    make_sweeps(folder)
    make_own_sweep(folder)
    return folder

def only_parsed(words):
    "Why a command is not run, or None"
    if '--scheduler' in words: return 'needs a cluster'
    if '--only' in words: return 'names a run of a sweep that is not this one'
    if len(words)==1 and not words[0].startswith('-'): return 'a mention'

def small(words, folder):
    "A printed command at small size, with what stands in for a user's things"
    instead = {'PATH': 'glue', 'MODEL': 'my-classifier', 'OWNER/NAME': f'{owner}/mask', 'google-bert/bert-base-uncased': 'minilm'}
    words = [instead.get(w, w) for w in words]
    if words[0]=='adapt' and '--max-steps' not in words: words += ['--max-steps', '4']
    if words[0]=='compress' and '--steps' not in words: words += ['--steps', '4']
    if words[0]=='bench' and '--rounds' not in words: words += ['--rounds', '3', '--batch', '1', '--tokens', '16']
    if words[0]=='demo' and '--epochs' not in words: words += ['--epochs', '.05']
    out = words[words.index('--out')+1] if '--out' in words else None
    if words[0] in ('adapt', 'pull', 'export', 'compress') and out and (folder/out).exists(): words += ['--force']
    return words

def run(command, folder, env, timeout=900):
    "Run a command; how many seconds it took, and what it said if it failed"
    start = time.perf_counter()
    r = subprocess.run(command, cwd=folder, env=env, timeout=timeout, capture_output=True, text=True)
    said = '\n'.join((r.stdout+r.stderr).strip().splitlines()[-12:])
    return time.perf_counter()-start, f'exit status {r.returncode}\n{said}' if r.returncode else ''

class Report:
    "What was run, and what failed"
    def __init__(self): self.failed = []
    def __call__(self, what, seconds, error=''):
        print(f"{'FAIL' if error else 'ok  '} {seconds:6.1f} s  {what}", flush=True)
        if error:
            print('    '+error.replace('\n', '\n    '), flush=True)
            self.failed.append(what)
    def skip(self, what, why): print(f'parsed           {what}   ({why})', flush=True)

alone = 'demo','sweep'      # commands that need no file of an earlier one

def commands(folder, env, report, mine):
    "Every printed command whose first word `mine` takes, each once"
    adaptprune = Path(sys.executable).with_name('adaptprune')
    seen,tried = set(),set()
    for _,words in printed.printed()+printed.recorded():
        line = re.sub(r'--[a-z_-]+', lambda m: m[0].replace('_', '-'), shlex.join(words))
        if line in seen or not mine(words[0]): continue
        seen.add(line)
        alike = re.sub(r'sweeps/\S+\.toml', 'sweeps/*.toml', line)     # the same short sweep stands in for each
        why = only_parsed(words) or ('as the other sweeps, tried above' if alike in tried else None)
        if why:
            report.skip(f'adaptprune {line}', why)
            continue
        tried.add(alike)
        command = small(words, folder)
        report(f'adaptprune {shlex.join(command)}', *run([adaptprune, *command], folder, env))

def blocks(name, folder, env, report):
    "The Python blocks of a page, as one program in their order; a tutorial has imported the public names"
    code = '\n'.join(printed.python_blocks(printed.markdown(root/name)))
    if name!='README.md': code = 'from adaptprune import *\n'+code
    for was,now in small_python[name]:
        if was not in code: report(f'{name} does not print {was!r}', 0., 'mend small_python')
        code = code.replace(was, now)
    (folder/'blocks.py').write_text(code, encoding='utf-8')
    report(f'the Python blocks of {name}', *run([sys.executable, 'blocks.py'], folder, env))

def in_colab(page, env, report):
    "A page that is offered in Colab, alone in an empty folder"
    command = sys.executable, root/'tools'/'colab.py', page
    report(f'{page.relative_to(root)} as in Colab', *run(command, root.parent, env))

def tests(folder, env, report):
    "The tests of the command line, against what is installed"
    shutil.copytree(root/'tests', folder/'tests', ignore=shutil.ignore_patterns('__pycache__'))
    (folder/'pytest.ini').write_text('[pytest]\nmarkers =\n    slow\n    weights\n    glue\n    gpu\n')
    files = 'tests/test_cli.py','tests/test_cli_hub.py'
    pytest = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider']
    report(f"pytest {' '.join(files)}", *run([*pytest, *files], folder, env))

def environment():
    "The versions that are tried"
    names = 'adaptprune','torch','transformers','datasets','huggingface_hub','fastcore','accelerate','safetensors','numpy'
    return ', '.join(f'{n} {metadata.version(n)}' for n in names)

def main():
    import adaptprune
    if Path(adaptprune.__file__).is_relative_to(root/'adaptprune'):
        sys.exit('This Python uses the checkout, not an installed wheel: run `make users`.')
    print(environment())
    report = Report()
    report('pip check', *run([sys.executable, '-m', 'pip', 'check'], root, os.environ))
    with tempfile.TemporaryDirectory() as tmp, Hub() as hub:
        env = client_env(hub.url, Path(tmp)/'home')
        env.pop('PYTHONPATH', None)
        env.pop('GLUE_DIR', None)
        here,there = (make_folder(Path(tmp)/name) for name in ('somewhere', 'elsewhere'))
        def in_order():
            commands(here, env, report, lambda word: word not in alone)
            blocks('README.md', here, env, report)
        def beside_it():
            commands(there, env, report, lambda word: word in alone)
            for name in small_python.keys()-{'README.md'}: blocks(name, there, env, report)
            tests(there, env, report)
        pages = [partial(in_colab, p, env, report) for p in colab.offered()]
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(f) for f in (in_order, *pages, beside_it)]: done.result()
    if report.failed: sys.exit('\n'.join([f'{len(report.failed)} failed:', *(f'  {f}' for f in report.failed)]))

if __name__=='__main__': main()
