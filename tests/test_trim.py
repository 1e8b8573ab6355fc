"A smaller vocabulary: the same ids in other numbers, and what becomes of words outside of it"
import pytest,torch,transformers
from adaptprune.compaction import compact
from adaptprune.folder import load_compact,save_compact
from adaptprune.head import load_tokenizer
from adaptprune.trim import check_can_trim,trim_vocabulary,used_tokens
from adaptprune.units import Structure,find_units

letters = 'abcdefgh'
special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
pieces = [*letters, *('##'+c for c in letters), 'abc', '##def', 'abcdef', 'fed', '##ed', 'bag', 'cab', '##ge', 'head']

@pytest.fixture
def tokenizer(): return transformers.BertTokenizer(vocab={t: i for i,t in enumerate([*special, *pieces])}, model_max_length=30)

families = 'Bert','DistilBert','Electra'
@pytest.mark.parametrize('family', families)
def test_outputs_are_the_same_bit_for_bit(family, tiny, tokenizer):
    model = tiny(family, 'ForSequenceClassification')
    said = ['abcdef bag', 'fed cab bag ab', ('head bag', 'cab')]
    small,tok,ids = trim_vocabulary(model, tokenizer, said)
    assert len(tok)==len(ids)==small.config.vocab_size==small.get_input_embeddings().num_embeddings<len(tokenizer)
    for t in [*said, 'bag fed', 'hgf']:
        row = (t,) if isinstance(t, str) else t
        a,b = tokenizer(*row, return_tensors='pt'),tok(*row, return_tensors='pt')
        assert [ids[i] for i in b['input_ids'][0]]==a['input_ids'][0].tolist()
        assert torch.equal(small(**b).logits, model(**a).logits)
    assert model.config.vocab_size==50 and model.get_input_embeddings().num_embeddings==50, 'the model stays as it is'
    shared = dict(model.named_parameters())
    assert sum(p is not shared[n] for n,p in small.named_parameters())==1, 'all but the embeddings is shared'

def test_what_an_unknown_word_gets(tiny, tokenizer):
    "Shorter pieces, single characters, and [UNK] only where the whole vocabulary has no character for it"
    _,tok,_ = trim_vocabulary(tiny('Bert'), tokenizer, ['abc fed'])
    assert tokenizer.tokenize('abcdef head bage zeb')==['abcdef', 'head', 'bag', '##e', '[UNK]']
    assert tok.tokenize('abcdef head bage zeb')==['abc', '##d', '##e', '##f', 'h', '##e', '##a', '##d', 'b', '##a', '##g', '##e', '[UNK]']

def test_how_often(tokenizer):
    said = ['bag bag', 'cab']
    def words(least): return {pieces[i-5] for i in used_tokens(tokenizer, said, least) if i>=5}-set(pieces[:16])
    assert words(1)=={'bag', 'cab'} and words(2)=={'bag'} and words(3)==set()
    for bad in (0, True, .5):
        with pytest.raises(ValueError, match='at least once'): used_tokens(tokenizer, said, bad)
    with pytest.raises(ValueError, match='no texts'): used_tokens(tokenizer, [])

def test_a_compact_network_is_saved_with_its_vocabulary(tiny, tokenizer, tmp_path):
    model = tiny('Bert', 'ForSequenceClassification')
    cut = compact(model, Structure({u.out: torch.arange(u.n)<max(1, u.n//2) for u in find_units(model)}))
    small,tok,_ = trim_vocabulary(cut, tokenizer, ['bag fed'])
    save_compact(small, tmp_path/'a', tok)
    again,t = load_compact(tmp_path/'a'),load_tokenizer(tmp_path/'a')
    a,b = tokenizer('bag fed', return_tensors='pt'),t('bag fed', return_tensors='pt')
    assert not torch.equal(a['input_ids'], b['input_ids']) and torch.equal(again(**b).logits, cut(**a).logits)
    assert t.pad_token_id==tokenizer.pad_token_id and t.tokenize('head')==['h', '##e', '##a', '##d']

def test_other_vocabularies_and_models_are_refused(tiny, tokenizer):
    gpt = transformers.GPT2Tokenizer(vocab={'a': 0, '<|endoftext|>': 1}, merges=[])
    with pytest.raises(ValueError, match='this one is BPE'): check_can_trim(gpt)
    with pytest.raises(ValueError, match='BertForMaskedLM predicts words'): trim_vocabulary(tiny('Bert', 'ForMaskedLM'), tokenizer, ['bag'])

def test_padding_and_added_tokens(tiny, tokenizer):
    "Padding keeps its id, also where it is not the first; tokens that were added stay"
    first = ['[UNK]', 'bag', '[PAD]', '[CLS]', '[SEP]', '[MASK]', 'cab', 'fed', 'a', 'b']
    tok = transformers.BertTokenizer(vocab={t: i for i,t in enumerate(first)})
    tok.add_tokens(['<name>'])
    _,small,ids = trim_vocabulary(tiny('Bert'), tok, ['cab <name> cab'])
    assert small.pad_token_id==2 and small.tokenize('cab <name> fed')==['cab', '<name>', '[UNK]']
    assert ids==[0, 1, 2, 3, 4, 5, 6, 8, 9, 10] and small('cab')['input_ids'][0]==small.cls_token_id
    assert small(['cab', 'cab cab'], padding=True)['input_ids'][0][-1]==2
