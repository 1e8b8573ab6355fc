"A teacher in a Trainer, and a Trainer that makes its optimiser: the loss of `adapt`, gradients, accumulation, searches."
import copy
import pytest,torch,transformers
from accelerate import Accelerator
from transformers import Trainer,TrainingArguments
from adaptprune.head import AdaptModel
from adaptprune.loop import taught_loss
from adaptprune.optim import MaskOptimizer
from adaptprune.recipe import get_recipe
from adaptprune.trainer import MaskCallback,MaskTrainer,learn_from

def ids(i): return torch.randint(2, 50, (6,), generator=torch.Generator().manual_seed(i))

data = [dict(input_ids=ids(i), attention_mask=torch.tensor([1]*(6-i%3)+[0]*(i%3)), labels=i%2) for i in range(16)]
tagged = [dict(d, labels=torch.tensor([-100, *[i%3]*(1+i%4), *[-100]*(4-i%4)])) for i,d in enumerate(data)]
scored = [dict(d, labels=float(i)/8) for i,d in enumerate(data)]
several = [dict(d, labels=torch.tensor([1., i%2, 0.])) for i,d in enumerate(data)]
asked = [dict({n: v for n,v in d.items() if n!='labels'}, start_positions=i%5, end_positions=i%5+1) for i,d in enumerate(data)]
still = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
kinds = dict(classes=('ForSequenceClassification', data, dict(num_labels=2)), score=('ForSequenceClassification', scored, dict(num_labels=1)),
    several=('ForSequenceClassification', several, dict(num_labels=3, problem_type='multi_label_classification')),
    tags=('ForTokenClassification', tagged, dict(num_labels=3)), spans=('ForQuestionAnswering', asked, {}))

def args(path, **kwargs):
    base = dict(max_steps=3, per_device_train_batch_size=8, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy='no', seed=0)
    return TrainingArguments(str(path), **{**base, **kwargs})

def batch_of(rows): return {n: torch.stack([torch.as_tensor(r[n]) for r in rows]) for n in rows[0]}

class Noted(torch.optim.SGD):
    "Keeps the gradients of each step, and changes nothing"
    def step(self, *args, **kwargs):
        self.grads = [p.grad.clone() for g in self.param_groups for p in g['params'] if p.grad is not None]

@pytest.mark.parametrize('kind', kinds)
def test_the_loss_is_that_of_adapt(tiny, tmp_path, kind):
    cls,rows,more = kinds[kind]
    model,teacher = [tiny('Bert', cls, seed=s, **still, **more) for s in (0, 1)]
    want = taught_loss(copy.deepcopy(teacher), get_recipe('distilled'), Accelerator(cpu=True))(copy.deepcopy(model), batch_of(rows))
    t = learn_from(Trainer(model, args(tmp_path), train_dataset=rows), teacher)
    got = t.compute_loss(t.model.train(), batch_of(rows))
    torch.testing.assert_close(got, want)
    assert got>30*.1                                        # hidden states of unlike networks are far apart
    got.backward()
    assert all(p.grad is not None and p.grad.abs().sum()>0 for n,p in model.named_parameters() if n.endswith('query.weight'))
    assert not teacher.training and all(not p.requires_grad and p.grad is None for p in teacher.parameters())

@pytest.mark.parametrize('cls', ['own', 'ForSequenceClassification'])
@pytest.mark.parametrize('parts', [2, 4])
def test_accumulated_batches_are_one_batch(tiny, tmp_path, cls, parts):
    "The gradient of a step does not depend on the number of pieces that a batch is cut into"
    def make(seed): return AdaptModel(tiny('Bert', seed=seed, **still), 2) if cls=='own' else tiny('Bert', cls, seed=seed, **still)
    def grads(n):
        torch.manual_seed(0)
        model,teacher = make(0),make(1)
        rows = [{k: v for k,v in d.items() if k!='attention_mask'} for d in data]           # so that the mean over tokens is one over rows
        opt = Noted(model.parameters(), lr=1.)
        t = Trainer(model, args(tmp_path, max_steps=1, per_device_train_batch_size=8//n, gradient_accumulation_steps=n, max_grad_norm=0),
            train_dataset=rows, optimizers=(opt, None))
        for m in (model, teacher): [setattr(x, 'p', 0.) for x in m.modules() if isinstance(x, torch.nn.Dropout)]
        learn_from(t, teacher, distil_hidden=0.).train()
        return opt.grads
    for a,b in zip(grads(1), grads(parts), strict=True): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)

@pytest.mark.parametrize('n', [2, 4])
def test_our_model_accumulates_without_a_teacher(tiny, tmp_path, n):
    "An `AdaptModel` in a Trainer: its mean loss is divided by the number of accumulated batches"
    def norm(n):
        torch.manual_seed(0)
        model = AdaptModel(tiny('Bert', **still), 2)
        for m in model.modules():
            if isinstance(m, torch.nn.Dropout): m.p = 0.
        opt = Noted(model.parameters(), lr=1.)
        a = args(tmp_path, max_steps=1, per_device_train_batch_size=8//n, gradient_accumulation_steps=n, max_grad_norm=0)
        Trainer(model, a, train_dataset=data, optimizers=(opt, None)).train()
        return torch.stack([g.norm() for g in opt.grads]).norm()
    torch.testing.assert_close(norm(n), norm(1), rtol=1e-4, atol=0)

def test_a_run_learns_from_its_teacher(tiny, tmp_path):
    "A Trainer goes step for step as `adapt` with the same optimiser, teacher and batches; evaluation has the labels' loss alone"
    def make():
        model = tiny('Bert', 'ForSequenceClassification', **still)
        head = [*model.bert.pooler.parameters(), *model.classifier.parameters()]
        return model, MaskOptimizer(model.bert, head=head, sparsity=.4, steps=4, start='rank', every=2)
    teacher = tiny('Bert', 'ForSequenceClassification', seed=1, **still)
    model,opt = make()
    t = Trainer(model, args(tmp_path, max_steps=4, per_device_train_batch_size=16, max_grad_norm=0),
        train_dataset=data, eval_dataset=data, optimizers=(opt, None), callbacks=[MaskCallback(opt)])
    learn_from(t, teacher).train()
    other,own = make()
    loss = taught_loss(copy.deepcopy(teacher), get_recipe('distilled'), Accelerator(cpu=True))
    rates = torch.optim.lr_scheduler.LambdaLR(own, lambda step: 1-step/4)       # the Trainer's own
    for _ in range(4):
        loss(other.train(), batch_of(data)).backward()
        own.step()
        rates.step()
        own.zero_grad()
    assert opt.mask().jaccard(own.mask())>.999
    with torch.no_grad(): plain = model.eval()(**batch_of(data)).loss.item()
    assert t.evaluate()['eval_loss']==pytest.approx(plain, rel=1e-5)

def test_half_precision(tiny, tmp_path):
    model,teacher = [tiny('Bert', 'ForSequenceClassification', seed=s, **still) for s in (0, 1)]
    t = learn_from(Trainer(model, args(tmp_path, bf16=True), train_dataset=data), teacher)
    t.train()
    assert 0<t.state.log_history[-1]['train_loss']<1e3

def test_what_cannot_teach_is_refused(tiny, tmp_path):
    model,teacher = [tiny('Bert', 'ForSequenceClassification', seed=s) for s in (0, 1)]
    def trainer(cls=Trainer, **kwargs): return cls(model, kwargs.pop('args', args(tmp_path)), train_dataset=data, **kwargs)
    class Own(Trainer):
        def compute_loss(self, *args, **kwargs): return super().compute_loss(*args, **kwargs)
    with pytest.raises(ValueError, match='Own computes a loss of its own'): learn_from(trainer(Own), teacher)
    with pytest.raises(ValueError, match='leave it out'): learn_from(trainer(compute_loss_func=lambda *a, **k: 0), teacher)
    with pytest.raises(ValueError, match='leave it out'): learn_from(trainer(args=args(tmp_path, label_smoothing_factor=.1)), teacher)
    with pytest.raises(ValueError, match='shares weights'): learn_from(trainer(), model)
    with pytest.raises(ValueError, match='without a teacher'): learn_from(trainer(), teacher, 'default')
    with pytest.raises(ValueError, match='differ in number or shape'): learn_from(trainer(), tiny('Bert', 'ForSequenceClassification', num_hidden_layers=1)).train()

# a Trainer that makes its optimiser

def make_model(tiny): return tiny('Bert', 'ForSequenceClassification', **still)

def make_opt(model, steps, reach=1., **kwargs):
    head = [*model.bert.pooler.parameters(), *model.classifier.parameters()]
    return MaskOptimizer(model.bert, head=head, sparsity=.4, steps=steps, start='rank', every=2, reach=reach, **kwargs)

def searching(tiny, path, made, **kwargs):
    "A `MaskTrainer` that notes what it made"
    def make(model, steps, **chosen):
        made.append((make_opt(model, steps, **chosen), steps, chosen))
        return made[-1][0]
    how = args(path, **{**dict(max_steps=-1, num_train_epochs=2), **kwargs})
    return MaskTrainer(args=how, model_init=lambda: make_model(tiny), train_dataset=data, eval_dataset=data, make_opt=make)

def test_it_knows_the_number_of_steps(tiny, tmp_path):
    made = []
    t = searching(tiny, tmp_path, made, gradient_accumulation_steps=2, num_train_epochs=3, logging_steps=1)
    t.evaluate()                                            # before there is an optimiser
    t.train()
    opt,steps,_ = made[0]
    assert len(made)==1 and steps==t.state.max_steps==opt.i==3 and opt.target_met() and t.state.log_history[-2]['sparsity']>.3

def test_each_run_is_a_new_one(tiny, tmp_path):
    "Trained twice: two optimisers for two fresh models, and the same mask"
    made = []
    t = searching(tiny, tmp_path, made)
    t.train()
    t.train()
    a,b = [o for o,*_ in made]
    assert a is not b and a.mask()==b.mask() and t.optimizer.optimizer is b

def test_it_resumes(tiny, tmp_path):
    made = []
    searching(tiny, tmp_path/'a', made).train()
    t = searching(tiny, tmp_path/'b', made, save_strategy='steps', save_steps=2)
    t.train()
    again = searching(tiny, tmp_path/'b', made, save_strategy='steps', save_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path/'b'/'checkpoint-2'))
    assert made[-1][0].i==4 and made[-1][0].mask()==made[0][0].mask()

def test_trials_of_a_search(tiny, tmp_path, monkeypatch):
    "What a trial chooses is the Trainer's or the optimiser's, by name; without Optuna a trial is a dict, as Ray gives it"
    from transformers.trainer_utils import HPSearchBackend
    made = []
    monkeypatch.setattr(transformers.integrations, 'hp_params', dict)       # both look into Ray, which need not be there
    monkeypatch.setattr(MaskTrainer, '_get_output_dir', lambda self, trial: str(tmp_path))
    t = searching(tiny, tmp_path, made)
    t.hp_search_backend = HPSearchBackend.RAY
    for trial in (dict(reach=.5, num_train_epochs=2), dict(reach=4., num_train_epochs=3)): t.train(trial=trial)
    assert [(steps, c) for _,steps,c in made]==[(4, dict(reach=.5)), (6, dict(reach=4.))]
    a,b = [o for o,*_ in made]
    assert a.target_met() and b.target_met() and b.mask()==t.optimizer.optimizer.mask()!=a.mask()
    assert a.settings.reach!=b.settings.reach

def test_a_search_with_optuna(tiny, tmp_path):
    optuna = pytest.importorskip('optuna', reason="needs optuna: pip install optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = []
    t = searching(tiny, tmp_path, made)
    def space(trial): return dict(reach=trial.suggest_float('reach', .5, 4.), num_train_epochs=trial.suggest_int('num_train_epochs', 1, 3))
    best = t.hyperparameter_search(space, n_trials=3, direction='minimize', backend='optuna', sampler=optuna.samplers.RandomSampler(seed=0))
    assert len(made)==3 and len({c['reach'] for *_,c in made})==3 and all(set(c)=={'reach'} for *_,c in made)
    assert all(o.i==steps and o.target_met() for o,steps,_ in made) and {s for _,s,_ in made}<={2, 4, 6}
    assert set(best.hyperparameters)=={'reach', 'num_train_epochs'}

def test_what_it_refuses(tiny, tmp_path):
    with pytest.raises(ValueError, match='leave out optimizers'): MaskTrainer(make_model(tiny), args(tmp_path), make_opt=make_opt, optimizers=(None, None))
    t = MaskTrainer(make_model(tiny), args(tmp_path), train_dataset=data, make_opt=lambda model, steps: make_opt(model, steps+1))
    with pytest.raises(ValueError, match='made for 4: make it with steps=3'): t.train()
    t = MaskTrainer(make_model(tiny), args(tmp_path), train_dataset=data, make_opt=lambda model, steps: torch.optim.SGD(model.parameters()))
    with pytest.raises(ValueError, match='another optimiser'): t.train()
