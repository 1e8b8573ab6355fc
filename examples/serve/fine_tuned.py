"""Fine-tune a copy of MiniLM on each mini task, by a plain loop: what `adaptprune compress` makes small for the server.

    python fine_tuned.py fine-tuned        about a minute for each task on one core; folders, and their texts as CSV"""
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from adaptprune import evaluate, load_task
from adaptprune.head import load_tokenizer
from adaptprune.published import model_path
from adaptprune.tasks import get_task, make_loaders

def fine_tune(name, out, epochs=4):
    "Write one model and its training texts"
    task,data = get_task(name),load_task(name)
    torch.manual_seed(0)
    tokenizer = load_tokenizer('minilm')
    loaders = make_loaders(data, tokenizer)
    names = dict(id2label=dict(enumerate(task.labels)), label2id={l: i for i,l in enumerate(task.labels)}) if task.labels else {}
    model = AutoModelForSequenceClassification.from_pretrained(model_path('minilm'), num_labels=task.num_labels, **names)
    if not task.labels: model.classifier.bias.data.fill_(sum(data['train']['label'])/len(data['train']))     # a score starts at the mean
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for epoch in range(epochs):
        model.train()
        loaders['train'].batch_sampler.set_epoch(epoch)
        for batch in loaders['train']:
            model(**batch).loss.backward()
            opt.step()
            opt.zero_grad()
    print(out, evaluate(model, loaders['dev'], task))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    texts = data['train'].rename_column('label', 'answer').remove_columns('answer')
    texts.to_csv(out/'texts.csv')

if __name__=='__main__':
    torch.set_num_threads(1)
    for name in ('sentiment', 'similarity', 'inference'): fine_tune(f'mini-{name}', Path(sys.argv[1])/name)
