"""Claim: first-order rewards rank samples as exact ones do (Spearman >= 0.99) and are >= 300 times cheaper a sample.

Multi30k de-en, a Marian model built from a config (2 + 2 layers, d = 128) after a short training, 1,900 validation
sentences as in the paper. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import MarianConfig, MarianMTModel

from tamis.core.rng import numpy_generator
from tamis.features.losses import make_batch, sample_loss_of
from tamis.search.curriculum.gradient import exact_rewards, rewards_by

PAD, END, UNKNOWN = 0, 1, 2
LOSS = sample_loss_of("seq2seq")


def collate(rows):
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(row["input_ids"]) for row in rows], True, PAD)
    labels = pad([torch.tensor(row["labels"]) for row in rows], True, -100)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


def encode(frames, size):
    """Word ids of the ``size`` commonest words of the first frame, for both sides of all frames."""
    vocabularies = []
    for side in ("de", "en"):
        counts = Counter(word for text in frames[0][side] for word in text.lower().split())
        vocabularies.append({word: k + 3 for k, (word, _) in enumerate(counts.most_common(size - 3))})

    def ids(text, vocabulary):
        return [*(vocabulary.get(word, UNKNOWN) for word in text.lower().split()), END]

    return [
        [
            {"input_ids": ids(de, vocabularies[0]), "labels": ids(en, vocabularies[1])}
            for de, en in zip(frame["de"], frame["en"], strict=True)
        ]
        for frame in frames
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--probes", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "curriculum_reward.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = ("train", "val", "test_2016_flickr")
    frames = [pd.read_parquet(args.data / "multi30k" / f"{name}.parquet") for name in names]
    train, val, more = encode(frames, 1000 if args.quick else 4000)
    validation = [*val, *more][: 200 if args.quick else 1900]
    config = MarianConfig(
        vocab_size=4000, d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=512, decoder_ffn_dim=512, pad_token_id=PAD, eos_token_id=END,
        decoder_start_token_id=PAD, forced_eos_token_id=None, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = MarianMTModel(config).train()
        optimizer, generator = torch.optim.AdamW(model.parameters(), lr=1e-3), numpy_generator(1)
        for _ in range(10 if args.quick else 80):
            optimizer.zero_grad()
            model(**make_batch(train, generator.integers(0, len(train), 32), collate, model)).loss.backward()
            optimizer.step()
    print("trained", flush=True)

    def batches():
        ordered = sorted(validation, key=lambda row: len(row["labels"]))
        return (collate(ordered[at : at + 64]) for at in range(0, len(ordered), 64))

    start = time.process_time()
    measure = rewards_by("first_order", model, batches, 1e-4, LOSS)
    gradient = time.process_time() - start
    picks = generator.permutation(len(train))[: 128 if args.quick else 1024]
    picks = np.array(sorted(picks, key=lambda i: len(train[i]["labels"])))
    parts = [make_batch(train, picks[at : at + 64], collate, model) for at in range(0, len(picks), 64)]
    measure(parts[:1])  # the first call loads torch's forward-mode formulas
    start = time.process_time()
    first = measure(parts)
    each = (time.process_time() - start) / len(picks)
    print("first order", gradient, each, flush=True)
    probes = generator.permutation(len(picks))[: 4 if args.quick else args.probes]
    singles = [make_batch(train, [picks[i]], collate, model) for i in probes]
    start = time.process_time()
    exact = exact_rewards(model, singles, batches, 1e-4, LOSS)
    slow = (time.process_time() - start) / (len(probes) + 1)  # one more evaluation: before the steps
    ranks = np.argsort(np.argsort([first[probes], exact], axis=1), axis=1).astype(float)
    figures = {
        "validation_sentences": len(validation),
        "probes": len(probes),
        "spearman": float(np.corrcoef(ranks)[0, 1]),
        "pearson": float(np.corrcoef(first[probes], exact)[0, 1]),
        "slope": float(np.polyfit(first[probes], exact, 1)[0]),
        "exact_cpu_seconds_a_sample": slow,
        "first_order_cpu_seconds_a_sample": each,
        "validation_gradient_cpu_seconds": gradient,
        "times_cheaper_a_sample": slow / each,
        "times_cheaper_with_the_gradient_over_the_training_set": slow / (each + gradient / len(train)),
    }
    result = {"benchmark": "curriculum_reward", "seed": 1, "data": "Multi30k de-en", "budget": "one thread"}
    result |= {"versions": {"torch": torch.__version__}, "figures": figures}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
