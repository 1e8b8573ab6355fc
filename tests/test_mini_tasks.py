"The mini tasks are learnable, and not by counting words"
import hashlib
from pathlib import Path
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from adaptprune.results import read_results
from adaptprune.tasks import compute_metrics, get_task, load_task

root = Path(__file__).resolve().parent.parent

def bag_of_words(name):
    "Dev score of a linear model on word counts, the words of the two sentences counted apart"
    task,data = get_task(name), load_task(name)
    texts = {s: [' '.join(f'{c}_{w}' for c in ('text_a', 'text_b') if c in r for w in r[c].lower().split()) for r in data[s]] for s in ('train', 'dev')}
    count = CountVectorizer(token_pattern=r'\S+').fit(texts['train'])
    model = Ridge() if task.kind=='regression' else LogisticRegression(max_iter=1000)
    model.fit(count.transform(texts['train']), data['train']['label'])
    x = count.transform(texts['dev'])
    return compute_metrics(task, model.predict(x) if task.kind=='regression' else model.predict_log_proba(x), data['dev']['label'])[task.metric]

def test_the_records_are_of_this_data():
    "After a change of the rows: python benchmarks/mini_tasks.py, and the new hash here"
    files = sorted((root/'adaptprune'/'data').glob('mini-*/*.tsv'))
    assert hashlib.sha256(b''.join(f.read_bytes() for f in files)).hexdigest()[:16]=='47d4a610d922660d'

@pytest.mark.parametrize('name, gap', [('mini-sentiment', .12), ('mini-similarity', .3), ('mini-inference', .08)])
def test_fine_tuned_minilm_is_well_above_a_bag_of_words(name, gap):
    "As recorded: to train it again in each test would take minutes. The tests of the demo train mini-sentiment"
    run, = [r for r in read_results(root/'results'/'mini_tasks.jsonl') if r['name']=='finetune' and r['cell']['task']==name]
    assert run['report']['metrics'][run['report']['metric']] > bag_of_words(name)+gap
