"""What `compress` keeps of a user's model that was trained until it no longer gained.

    python benchmarks/compress.py --glue-dir PATH --task sst2                            # adds what is missing to results/compress.json
    python benchmarks/compress.py --glue-dir PATH --task sst2 --choose --steps 2000      # for choices: scored on held-out train alone

The model: MiniLM with a new head, all weights trained by transformers' Trainer, the best epoch by a tenth of train that is held out.
Of `stsb` it is a sentence encoder, trained as a bi-encoder by sentence-transformers; of `encoder` it is MiniLM as it is published.
Both of them are compressed with STS-B's training sentences alone, without their scores."""
import json, time
from pathlib import Path

from adaptprune.cli import script
from adaptprune.compression import compress
from adaptprune.files import write_file
from adaptprune.folder import load_compact
from adaptprune.head import load_tokenizer, quiet
from adaptprune.published import model_path
from adaptprune.results import Records
from adaptprune.setup import digest
from adaptprune.subject import answers, compare, examples, load_subject, runner
from adaptprune.tasks import compute_metrics, get_task, holdout, load_task

root = Path(__file__).resolve().parent.parent
epochs,encoder_epochs = 3,4
encoder_batch = 16
rates = dict(lr=5e-5, batch_size=32, weight_decay=.01, warmup=.06)

def texts_of(ds):
    "Texts, or pairs of them"
    cols = [ds[c] for c in ('text_a', 'text_b') if c in ds.column_names]
    return list(cols[0]) if len(cols)==1 else list(zip(*cols))

def coded(tokenizer, ds):
    cols = [c for c in ('text_a', 'text_b') if c in ds.column_names]
    return ds.map(lambda b: tokenizer(*(b[c] for c in cols), truncation=True, max_length=128), batched=True, remove_columns=cols)

def fine_tuned(task, data, folder, seed=0):
    "The user's model, in a folder; its score on held-out train after each epoch"
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments
    log = folder/'epochs.json'
    if log.exists(): return json.loads(log.read_text())
    tokenizer = load_tokenizer('minilm')
    names = dict(enumerate(task.labels))
    with quiet(): model = AutoModelForSequenceClassification.from_pretrained(model_path('minilm'), num_labels=task.num_labels,
        id2label=names, label2id={v: k for k,v in names.items()})
    def scored(p): return compute_metrics(task, p.predictions, p.label_ids)
    args = TrainingArguments(str(folder/'trainer'), num_train_epochs=epochs, learning_rate=rates['lr'], seed=seed,
        per_device_train_batch_size=rates['batch_size'], per_device_eval_batch_size=64, weight_decay=rates['weight_decay'],
        warmup_steps=rates['warmup'], eval_strategy='epoch', save_strategy='epoch', save_total_limit=1, logging_steps=200,
        load_best_model_at_end=True, metric_for_best_model=task.metric, report_to='none', use_cpu=True, train_sampling_strategy='group_by_length')
    trainer = Trainer(model, args, train_dataset=coded(tokenizer, data['train']), eval_dataset=coded(tokenizer, data['validation']),
        data_collator=DataCollatorWithPadding(tokenizer), compute_metrics=scored)
    trainer.train()
    trainer.save_model(folder)
    tokenizer.save_pretrained(folder)
    told = [{k: v for k,v in e.items() if k in ('epoch', f'eval_{task.metric}')} for e in trainer.state.log_history if f'eval_{task.metric}' in e]
    write_file(log, json.dumps(told).encode())
    return told

def tuned_encoder(data, folder, seed=0):
    "A user's sentence encoder, trained as a bi-encoder on STS-B, in a folder; its score on held-out train after each epoch"
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
    log = folder/'epochs.json'
    if log.exists(): return json.loads(log.read_text())
    with quiet(): model = SentenceTransformer(model_path('minilm'), device='cpu')
    def pairs(ds): return ds.select_columns(['text_a', 'text_b', 'label']).map(lambda r: dict(label=r['label']/5))
    held = pairs(data['validation'])
    evaluator = EmbeddingSimilarityEvaluator(held['text_a'], held['text_b'], held['label'], name='held')
    args = SentenceTransformerTrainingArguments(str(folder/'trainer'), num_train_epochs=encoder_epochs, learning_rate=rates['lr'], seed=seed,
        per_device_train_batch_size=encoder_batch, weight_decay=rates['weight_decay'], warmup_steps=rates['warmup'], eval_strategy='epoch',
        save_strategy='epoch', save_total_limit=1, load_best_model_at_end=True, metric_for_best_model='eval_held_spearman_cosine',
        report_to='none', use_cpu=True)
    trainer = SentenceTransformerTrainer(model, args, train_dataset=pairs(data['train']), loss=CosineSimilarityLoss(model), evaluator=evaluator)
    trainer.train()
    model.save(str(folder))
    told = [dict(epoch=e['epoch'], eval_spearman=e[k]) for e in trainer.state.log_history for k in e if k.endswith('spearman_cosine')]
    write_file(log, json.dumps(told).encode())
    return told

def score(subject, model, ds):
    "On labelled examples that neither saw; of a sentence encoder Spearman's correlation of the cosines of pairs"
    said = answers(subject, runner(subject, model.eval()), examples(subject, texts_of(ds)))
    return next(iter(compare(subject, said, said, list(ds['label'])).values()))

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    task:str='sst2', # sst2, mnli, stsb (a bi-encoder), or encoder
    remove:str='.5,.7', # fractions of the layers' multiply-accumulates, with commas
    choose:bool=False, # score on the held-out tenth of train instead of dev, and record nothing
    steps:int=None, # of compress, in place of its own
    reach:float=None, # of compress, in place of its own
    sparsity:float=None, # of compress, in place of its own
    limit:int=None, # use so many training rows, to see that it works
    out:str=str(root/'results/compress.json'), # adds the rows that it lacks
    work:str=str(root/'runs/compress') # folder for models
):
    "Run what is missing"
    kind = 'encoder' if task in ('encoder', 'stsb') else 'classifier'
    about = get_task('stsb' if kind=='encoder' else task)
    data = holdout(load_task(about, glue_dir))
    if limit: data['train'] = data['train'].select(range(limit))
    folder = Path(model_path('minilm')) if task=='encoder' else Path(work)/task
    if task=='encoder': curve = []
    elif kind=='encoder': curve = tuned_encoder(data, folder)
    else: curve = fine_tuned(about, data, folder)
    split = 'validation' if choose else 'dev'
    given = {k: v for k,v in dict(steps=steps, reach=reach, sparsity=sparsity).items() if v is not None}
    rows = Records(out)
    subject = load_subject(folder, kind=kind)
    before = score(subject, subject.model, data[split])
    texts,labels = texts_of(data['train']), None if kind=='encoder' else list(data['train']['label'])
    if kind=='encoder': texts = sorted({t for pair in texts for t in pair})
    print(f'{task}: the whole model has {before:.4f} on {split}; epochs {curve}', flush=True)
    for r in map(float, remove.split(',')):
        cell = dict(task=task, remove=r, **given)
        if not choose and rows.has(cell): continue
        began = time.perf_counter()
        where = Path(work)/f'{task}-{digest(cell)[:8]}'
        made = compress(folder, texts, where, remove=r, labels=labels, kind=kind, force=True, progress=False,
            formats='none' if choose else 'onnx,int8', memory=not choose, **given)
        after = score(subject, load_compact(where), data[split])
        print(f'{task} {cell}: {before:.4f} -> {after:.4f} ({after-before:+.4f}), {time.perf_counter()-began:.0f} s', flush=True)
        if choose: continue
        rows.add(dict(cell=cell, split=split, metric=about.metric, before=before, after=after, epochs=curve, trained=rates, report=made.report,
            command=' '.join(['python benchmarks/compress.py --glue-dir PATH', *(f'--{k} {v}' for k,v in cell.items())]),
            seconds=round(time.perf_counter()-began)))

if __name__=='__main__': script(main)
