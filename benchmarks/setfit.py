"""SetFit's recipe (Tunstall et al. 2022, arXiv:2209.11055) on the few labels that the other methods get: no weight stays as it was.

    python benchmarks/setfit.py --glue-dir PATH                                  # adds what is missing to results/setfit.json
    python benchmarks/setfit.py --glue-dir PATH --labels 100,300 --samples 0     # a slice

Each training row is paired 20 times with a row of its class and 20 times with one of another. The encoder is tuned until the cosine
of the two vectors is 1 or 0, at the published rate, by one pass over the pairs or for the 500 steps of sweeps/few_labels.toml, what
is less. Then logistic regression reads its vectors, as it reads the untouched encoder's in benchmarks/frozen.py."""
import random,sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'benchmarks'))
from bi_encoder import BiEncoder, loader, make_loss

from adaptprune.cli import script
from adaptprune.loop import adapt
from adaptprune.results import Records
from adaptprune.setup import Setup, set_up
from adaptprune.timing import with_cost
from adaptprune.vectors import linear_baseline, text_features

partners = 20           # of the same class, and as many of another
batch_size,most_steps,rate = 16,500,2e-5

def pairs_of(texts, labels, seed):
    "Pairs of texts, with the label 1 where both are of one class and 0 where they are not"
    rng = random.Random(seed)
    of = {y: [t for t,l in zip(texts, labels) if l==y] for y in set(labels)}
    others = {y: [t for t,l in zip(texts, labels) if l!=y] for y in of}
    both = [(of, 1), (others, 0)]
    def pair(t, pool, same): return dict(text_a=t, text_b=rng.choice(pool), label=same)
    return [pair(t, pool[y], same) for t,y in zip(texts, labels) for pool,same in both for _ in range(partners)]

def tune(setup:Setup, seed):
    "Tune the encoder of a task on pairs of its training rows; how many steps it took"
    rows = setup.data['train']
    pairs = pairs_of(list(rows['text_a']), list(rows['label']), seed)
    batches = loader(pairs, setup.tokenizer, batch_size, seed, most=1)
    steps = min(len(batches), most_steps)
    model = BiEncoder(setup.model.base_model)
    adapt(model, batches, make_loss('mse'), recipe='finetune', lr=rate, max_steps=steps, seed=seed, progress=False)
    return steps

def measured(cell, model, glue_dir):
    "Tune, fit, score on dev"
    setup = set_up(cell['task'], model, glue_dir=glue_dir, max_train_samples=cell['labels'], seed=cell['sample'])
    steps = tune(setup, cell['sample'])
    return dict(metric=setup.task.metric, metrics=linear_baseline(setup, text_features(setup)), steps=steps)

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    task:str='sst2', # a classification task of single texts
    labels:str='100,300,1000,3000', # numbers of training rows, with commas
    samples:str='0,1,2,3,4', # seeds of the draws, with commas
    model:str='minilm', # 'minilm', 'mpnet', a folder, or a Hub id
    out:str=str(root/'results/setfit.json') # adds the rows that it lacks
):
    "Measure what is missing"
    records = Records(out)
    for sample in samples.split(','):
        for n in labels.split(','):
            cell = dict(task=task, labels=int(n), sample=int(sample))
            if records.has(cell, model=model): continue
            found = with_cost(lambda: measured(cell, model, glue_dir))
            print(cell, found['metrics'], found['cpu_seconds'], 'seconds', flush=True)
            command = f'python benchmarks/setfit.py --glue-dir PATH --task {task} --labels {n} --samples {sample}'
            records.add(dict(cell=cell, model=model, settings=dict(lr=rate, partners=partners), **found, command=command))

if __name__=='__main__': script(main)
