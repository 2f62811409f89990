"""State features: exact against the reference, the same whatever the padding, the format and the cache."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tamis.core.errors import TamisError
from tamis.core.rng import numpy_generator, torch_generator
from tamis.features.losses import log_likelihoods, sample_loss
from tamis.features.ngrams import count_keys, ngram_counts, summarise, tag_values, token_ids
from tamis.features.taggers import nltk_tagger, spacy_tagger
from tamis.samplers import FeatureTable, curriculum_features
from tests.reference import curriculum as reference

TEXT = ["a cat sat on a mat", "a dog", "", "  a  cat sat\ton the mat ", "größe ist größe", "a"]
SENTENCES = st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=12)


def ragged(sentences):
    return np.array([t for s in sentences for t in s], np.int64), np.array([len(s) for s in sentences], np.int64)


@settings(max_examples=60, deadline=None)
@given(SENTENCES)
def test_frequencies_and_summaries_equal_the_reference(sentences):
    ids, lengths = ragged(sentences)
    for n, (counts, sizes) in enumerate(ngram_counts(ids, lengths, 4), 1):
        wanted = reference.ngram_frequency(sentences, n)
        assert sizes.tolist() == [len(row) for row in wanted]
        frequencies = counts / max(len(counts), 1)
        assert np.allclose(frequencies, [f for row in wanted for f in row])
        summary = summarise(frequencies, sizes)
        assert np.allclose(summary, [reference.statistics(row) for row in wanted], atol=1e-6)


def test_frequencies_of_distinct_ngrams_sum_to_one():
    ids, lengths = token_ids(TEXT)
    rows = np.split(ids, np.cumsum(lengths)[:-1])
    for n, (counts, sizes) in enumerate(ngram_counts(ids, lengths, 3), 1):
        grams = [tuple(row[k : k + n].tolist()) for row in rows for k in range(len(row) - n + 1)]
        frequency = dict(zip(grams, counts / len(counts), strict=True))
        assert np.isclose(sum(frequency.values()), 1)
        assert sizes.sum() == len(counts)


def test_pairs_too_large_to_pack_are_counted_all_the_same():
    generator = numpy_generator(3)
    first, second = generator.integers(0, 6, 300), generator.integers(0, 6, 300)
    number, seen = count_keys(first, second)
    wide = count_keys(first * 2**40, second * 2**30)
    assert np.array_equal(seen, wide[1])
    assert np.array_equal(number, wide[0])
    assert len(set(number.tolist())) == len(set(zip(first.tolist(), second.tolist(), strict=True)))


def test_words_are_those_of_python_split():
    ids, lengths = token_ids(TEXT)
    words = [word for text in TEXT for word in text.split()]
    assert lengths.tolist() == [len(text.split()) for text in TEXT]
    pairs = set(zip(words, ids.tolist(), strict=True))
    assert len(pairs) == len(set(words)) == len(set(ids.tolist()))


def test_chunks_share_one_vocabulary(monkeypatch):
    whole = token_ids(TEXT)
    monkeypatch.setattr("tamis.features.ngrams._CHUNK", 2)
    for wanted, got in zip(whole, token_ids(TEXT), strict=True):
        assert np.array_equal(wanted, got)


def test_padding_changes_nothing():
    rows = [[5, 6, 7], [5, 6], [9]]
    plain = curriculum_features({"labels": rows}, text=["labels"])
    for width in (3, 8):
        padded = np.full((3, width), -100)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        again = curriculum_features({"labels": padded}, text=["labels"])
        assert all(torch.equal(plain.groups[name], again.groups[name]) for name in plain.groups)


def test_rarity_and_tags_equal_the_reference():
    tags = [["D" if w in ("a", "the") else "N" if w != "sat" else "V" for w in text.split()] for text in TEXT]
    tags[0][0] = "N"
    features = curriculum_features({"t": TEXT, "pos": tags}, text=["t"], tags={"pos": ("t", "pos")})
    words = [text.split() for text in TEXT]
    wanted = [reference.statistics(row) for row in reference.tagging_values(words, tags)]
    assert np.allclose(features.groups["tags"], wanted, atol=1e-6)
    bigrams = [reference.statistics([-np.log(f) for f in row]) for row in reference.ngram_frequency(words, 2)]
    assert np.allclose(features.groups["rarity"][:, 4:8], bigrams, atol=1e-5)
    assert features.column("length", "t").tolist() == [6, 2, 0, 6, 3, 1]
    ids, _ = ragged([[0, 1, 0]])
    assert tag_values(ids, np.array([1, 1, 2])).tolist() == [0.5, 1.0, 0.5]


def test_taggers_columns_and_functions_plug_in():
    nltk = pytest.importorskip("nltk")
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "ANIMAL", "pattern": "cat"}])
    regular = nltk.RegexpTagger([(r"^(a|the)$", "DT"), (r".*", "NN")])
    features = curriculum_features(
        {"t": TEXT, "score": [1, 2, 3, 4, 5, 6]},
        tags={"pos": ("t", nltk_tagger(regular)), "ner": ("t", spacy_tagger(pipeline, "ent_type_"))},
        columns=["score"],
        functions={"shape": lambda rows: [[len(t), t.count("a")] for t in rows["t"]]},
    )
    assert features.layout["tags"][::4] == ("pos.mean", "ner.mean")
    assert features.groups["shape"].tolist()[0] == [18.0, 5.0]
    assert features.column("score", "score").tolist() == [1, 2, 3, 4, 5, 6]
    assert nltk_tagger(regular)(["a", "cat"]) == ["DT", "NN"]
    assert spacy_tagger(pipeline, "ent_type_")(["a", "cat"]) == ["", "ANIMAL"]


def test_all_formats_give_the_same_features():
    import pandas as pd
    import pyarrow as pa

    table = {"t": TEXT}
    want = curriculum_features(table, text=["t"]).digest()
    for data in (Dataset.from_dict(table), pa.table(table), pd.DataFrame(table), [{"t": t} for t in TEXT]):
        assert curriculum_features(data, text=["t"]).digest() == want
    order = [5, 0, 0, 3]
    chosen = curriculum_features(Dataset.from_dict(table).select(order), text=["t"])
    assert chosen.digest() == curriculum_features({"t": [TEXT[i] for i in order]}, text=["t"]).digest() != want


def test_features_go_to_a_dataset_a_file_and_back(tmp_path):
    data = Dataset.from_dict({"t": TEXT})
    features = curriculum_features(data, text=["t"])
    out = features.add_to(data)
    assert out["rarity.t.1-gram.mean"][:] == features.column("rarity", "t.1-gram.mean").tolist()
    features.save(tmp_path / "f.safetensors")
    again = FeatureTable.load(tmp_path / "f.safetensors")
    assert again.digest() == features.digest()
    assert again.layout == features.layout
    again.check(data, ["t"])
    with pytest.raises(ValueError, match="5 samples, the features 6"):
        again.check(data.select(range(5)), ["t"])
    with pytest.raises(ValueError, match="not those of the features"):
        again.check(data.select([1, 0, 2, 3, 4, 5]), ["t"])


def test_the_cache_is_used_for_the_same_columns_and_weights_only(tmp_path, monkeypatch):
    data = {"t": TEXT}
    model, items = classifier(), list(zip(torch.eye(6), range(6), strict=True))
    asked = dict(text=["t"], model=model, items=items, cache=tmp_path)
    want = curriculum_features(data, **asked)
    for name in ("_text_block", "log_likelihoods"):
        monkeypatch.setattr(f"tamis.features.text.{name}", None)
    assert curriculum_features(data, **asked).digest() == want.digest()
    with pytest.raises(TypeError):
        curriculum_features({"t": [*TEXT[:-1], "b"]}, **asked)
    with torch.no_grad():
        model.weight.add_(1)
    with pytest.raises(TypeError):
        curriculum_features(data, **asked)


def classifier():
    model = nn.Linear(6, 6)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=torch_generator(1)))
    return model


class Decoder(nn.Module):
    """Embedding and a head: logits [B, T, V]."""

    def __init__(self):
        super().__init__()
        self.emb, self.head, self.drop = nn.Embedding(9, 4), nn.Linear(4, 9), nn.Dropout(0.5)

    def forward(self, input_ids, labels=None):
        return {"logits": self.head(self.drop(self.emb(input_ids)))}


def test_log_likelihood_equals_the_reference_and_restores_the_mode():
    model = Decoder().train()
    ids = torch.randint(0, 9, (5, 7), generator=torch_generator(2))
    labels = ids.clone()
    labels[1, 3:] = -100
    items = [{"input_ids": i, "labels": t} for i, t in zip(ids, labels, strict=True)]
    for loss in ("seq2seq", "causal"):
        got = log_likelihoods(model, items, loss=loss, batch_size=2)
        logits = model.eval()(ids)["logits"].tolist()
        model.train()
        for row in range(5):
            cut = (logits[row], labels[row].tolist())
            cut = cut if loss == "seq2seq" else (cut[0][:-1], cut[1][1:])
            total, count = reference.log_likelihood(*cut)
            assert np.allclose(got[row], [total, total / count], rtol=1e-5)
    assert model.drop.training
    pairs = list(zip(torch.eye(6), range(6), strict=True))
    got = log_likelihoods(classifier(), pairs)
    assert np.allclose(got[:, 0], got[:, 1])


def test_auto_shifts_the_labels_of_causal_models_only():
    import transformers as hf

    small = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    batch = {"input_ids": torch.tensor([[1, 2, 3, 4]]), "labels": torch.tensor([[1, 0, 1, 1]])}
    for kind in (hf.BertForTokenClassification, hf.BertForMaskedLM):
        with pytest.raises(TamisError, match=f'cannot tell .* {kind.__name__} predict: pass loss="seq2seq"'):
            sample_loss(kind(hf.BertConfig(**small)), batch)
    decoder = hf.BertLMHeadModel(hf.BertConfig(**small, is_decoder=True))
    for model in (hf.LlamaForCausalLM(hf.LlamaConfig(**small)), decoder):
        model.eval()
        assert torch.equal(sample_loss(model, batch)[0], sample_loss(model, batch, "causal")[0])
        assert sample_loss(model, batch)[1].tolist() == [3]


def test_half_precision_logits_are_summed_in_float32():
    model, x = classifier(), torch.randn(4, 6, generator=torch_generator(3))
    labels = torch.tensor([0, 1, 2, 3])
    want, _ = sample_loss(model, (x, labels))
    got, _ = sample_loss(model.bfloat16(), (x.bfloat16(), labels))
    assert got.dtype == torch.float32
    assert torch.allclose(got, want, atol=0.1)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="asked for nothing"):
        curriculum_features({"t": TEXT})
    with pytest.raises(KeyError, match="not among t"):
        curriculum_features({"t": TEXT}, text=["x"])
    with pytest.raises(ValueError, match="row 1 has 1 tags for 2 tokens"):
        curriculum_features({"t": TEXT, "p": [t[:-1] and "x" * 0 + t if i != 1 else "x" for i, t in enumerate(TEXT)]},
                            tags={"p": ("t", "p")})  # fmt: skip
    with pytest.raises(TypeError, match="None"):
        curriculum_features({"t": ["a", None]}, text=["t"])
    with pytest.raises(TypeError, match="strings"):
        token_ids([0.5])
    with pytest.raises(ValueError, match=r"x\.x\[1\]=nan: must be finite; look at sample 1"):
        curriculum_features({"x": [1.0, float("nan")]}, columns=["x"])
    items = [{"input_ids": torch.zeros(3, dtype=torch.long), "labels": torch.full((3,), -100)}]
    with pytest.raises(TamisError, match="truncate everything"):
        log_likelihoods(Decoder(), items, loss="seq2seq")
    with pytest.raises(TamisError, match=r'cannot tell .* Decoder predict: pass loss="seq2seq"'):
        sample_loss(Decoder(), {"input_ids": torch.zeros(1, 3, dtype=torch.long), "labels": torch.zeros(1, 3).long()})
    with pytest.raises(TamisError, match="no logits"):
        sample_loss(_NoLogits(), {"x": torch.zeros(1, 2), "labels": torch.zeros(1).long()})
    with pytest.raises(TypeError, match="labels"):
        sample_loss(classifier(), torch.zeros(1, 6))


class _NoLogits(nn.Module):
    def forward(self, x, labels=None):
        return {"hidden": x}
