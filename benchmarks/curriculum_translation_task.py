"""The translation task of the curriculum's benchmark: data, noise, model, pre-training, BLEU."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import MBartConfig, MBartForConditionalGeneration

from tamis.core.rng import numpy_generator, seed_of
from tamis.features.losses import make_batch, sample_loss_of
from tamis.search.curriculum.gradient import mean_loss

DATA = Path(__file__).parents[2] / "shared" / "data"
PAD, END, VOCABULARY = 0, 1, 2000
LOSS = sample_loss_of("seq2seq")
LRS = (3e-3, 6e-4, 1.5e-4)  # of the pre-training: the next one whenever an epoch brings nothing


@dataclass
class Task:
    """One seed's data: items are dicts of token ids, sorted by length, so that passes in order pad little."""

    train: list
    frame: pd.DataFrame
    clean: np.ndarray
    reward: list
    selection: list
    test: list
    references: list
    tokenizer: Tokenizer


def frames(data, corpus, longest=None):
    """(candidates for training, held-out, test), short sentences only, columns source and target."""
    if corpus == "multi30k":
        read = [pd.read_parquet(data / "multi30k" / f"{name}.parquet") for name in
                ("train", "val", "test_2017_flickr", "test_2016_flickr")]  # fmt: skip
        parts, source, target = (read[0], pd.concat(read[1:3]), read[3]), "de", "en"
        longest = longest or 10
    else:
        whole = pd.read_parquet(data / "tatoeba" / "en_de.parquet")
        parts = tuple(whole[whole.split == name] for name in ("train", "val", "test"))
        source, target, longest = "en", "de", longest or 7
    short = []
    for part in parts:
        part = pd.DataFrame({"source": part[source].str.lower(), "target": part[target].str.lower()})
        words = part.apply(lambda column: column.str.split().str.len()).max(1)
        short.append(part[words <= longest].reset_index(drop=True))
    return short


def byte_pairs(texts):
    """A byte-pair tokenizer of both languages."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    return tokenizer


def task(data, corpus, seed, noise, n, longest=None, spare=False):
    """Draw training pairs, shuffle the targets of a share of them, and split the held-out pairs, all by ``seed``.

    ``spare`` puts held-out pairs without another role in the place of the test pairs: to settle how a method is run.
    """
    train, held, test = frames(data, corpus, longest)
    generator = numpy_generator(2027, seed)
    train = train.iloc[generator.permutation(len(train))[:n]].reset_index(drop=True)
    wrong = np.flatnonzero(generator.random(len(train)) < noise)
    targets = train["target"].to_numpy(copy=True)
    targets[wrong] = targets[np.roll(generator.permutation(wrong), 1)] if len(wrong) else targets[wrong]
    clean = targets == train["target"].to_numpy()
    train["target"] = targets
    by_length = (train["source"].str.len() + train["target"].str.len()).to_numpy().argsort(kind="stable")
    train, clean = train.iloc[by_length].reset_index(drop=True), clean[by_length]
    tokenizer = byte_pairs([*train["source"], *train["target"]])

    def items(frame):
        ids = [[row.ids for row in tokenizer.encode_batch(frame[side].tolist())] for side in ("source", "target")]
        return [{"input_ids": [*x, END], "labels": [*y, END]} for x, y in zip(*ids, strict=True)]

    order = generator.permutation(len(held))
    last = held.iloc[order[700:1100]] if spare else test.iloc[generator.permutation(len(test))[:400]]
    parts = [held.iloc[order[:400]], held.iloc[order[400:700]], last]
    parts = [part.iloc[part["source"].str.len().to_numpy().argsort(kind="stable")] for part in parts]
    return Task(items(train), train, clean, *map(items, parts), parts[2]["target"].tolist(), tokenizer)


def collate(rows):
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(row["input_ids"]) for row in rows], True, PAD)
    labels = pad([torch.tensor(row["labels"]) for row in rows], True, -100)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


def new_model(seed):
    """A transformer of 2 + 2 layers with the norms before the blocks, which learns from few updates."""
    config = MBartConfig(
        vocab_size=VOCABULARY, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=256, decoder_ffn_dim=256, pad_token_id=PAD, eos_token_id=END,
        bos_token_id=END, decoder_start_token_id=END, forced_eos_token_id=None, max_position_embeddings=128,
        dropout=0.1, init_std=0.05,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed_of(11, seed))
        return MBartForConditionalGeneration(config)


def loss_on(model, items):
    return mean_loss(model, (collate(items[at : at + 100]) for at in range(0, len(items), 100)), LOSS)


def step(model, optimizer, items, indices):
    model.train()
    total, count = LOSS(model, make_batch(items, indices, collate, model))
    optimizer.zero_grad()
    (total.sum() / count.sum()).backward()
    optimizer.step()


def pretrain(data, seed, max_epochs=20, show=print):
    """Train with all pairs until an epoch brings nothing at the last of `LRS`: (model, Adam, selection losses)."""
    model = new_model(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LRS[0], betas=(0.9, 0.98))
    generator, n, history = numpy_generator(12, seed), len(data.train), []
    best, kept, rate, done = np.inf, None, 0, 0
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed_of(13, seed))
        for _ in range(max_epochs):
            near = np.argsort(np.arange(n) + generator.uniform(0, n // 20, n))  # batches of nearly one length
            batches = np.array_split(near, -(-n // 64))
            for k in generator.permutation(len(batches)):
                optimizer.param_groups[0]["lr"] = LRS[rate] * min(1.0, (done + 1) / 150)
                step(model, optimizer, data.train, batches[k])
                done += 1
            history.append(loss_on(model, data.selection))
            show(f"epoch {len(history)} lr {LRS[rate]} selection {history[-1]:.4f}", flush=True)
            if history[-1] < best - 0.01:
                best, kept = history[-1], copy.deepcopy((model.state_dict(), optimizer.state_dict()))
                continue
            rate += 1
            model.load_state_dict(kept[0])
            optimizer.load_state_dict(kept[1])
            if rate == len(LRS):
                break
    return model, optimizer, history


def bleu(model, data):
    """Test BLEU of greedy translations."""
    import sacrebleu

    model.eval()
    texts = []
    for at in range(0, len(data.test), 100):
        batch = collate(data.test[at : at + 100])
        out = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], num_beams=1, do_sample=False,
            max_new_tokens=int(batch["input_ids"].shape[1] * 1.5) + 5,
        )  # fmt: skip
        rows = [[i for i in row if i not in (PAD, END)] for row in out.tolist()]
        texts += data.tokenizer.decode_batch(rows)
    return sacrebleu.corpus_bleu(texts, [data.references], force=True).score, texts
