"""Reinforced curriculum in a plain loop: which samples still improve a causal language model?

    python examples/curriculum_plain_loop.py --out runs/curriculum

One call does the rounds (agent, selection, updates) and leaves the model with its best weights. The corpus is made up:
sentences that count upwards by one or two, a third of them shuffled.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.data import default_collate
from transformers import GPT2Config, GPT2LMHeadModel

from tamis.core import evaluating, torch_generator
from tamis.features import curriculum_features
from tamis.search import AgentConfig, UpdateConfig, search_curriculum

WORDS, LENGTH = 30, 10


def make_data(count, shuffled, seed):
    """Rows for a causal LM: ``labels`` are the ``input_ids``."""
    generator, rows = torch_generator(11, seed), []
    for _ in range(count):
        steps = torch.randint(1, 3, (LENGTH,), generator=generator)
        ids = (torch.randint(WORDS, (), generator=generator) + steps.cumsum(0)) % WORDS
        if torch.rand((), generator=generator) < shuffled:
            ids = ids[torch.randperm(LENGTH, generator=generator)]
        rows.append({"input_ids": ids, "labels": ids})
    return rows


def pretrain(model, rows, steps, batch=32):
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch_generator(5)
    for _ in range(steps):
        picks = torch.randint(len(rows), (batch,), generator=generator)
        model(**default_collate([rows[pick] for pick in picks])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def held_out_loss(model, rows):
    with evaluating(model), torch.no_grad():
        return float(model(**default_collate(rows)).loss)


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/curriculum_plain"))
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--pretrain", type=int, default=400)
    args = parser.parse_args(argv)

    train, validation, test = make_data(args.samples, 0.3, 1), make_data(200, 0.0, 2), make_data(200, 0.0, 3)
    config = GPT2Config(
        vocab_size=WORDS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = GPT2LMHeadModel(config)
    optimizer = pretrain(model, train, args.pretrain)
    before = held_out_loss(model, test)

    text = {"ids": [row["input_ids"].tolist() for row in train]}
    features = curriculum_features(text, text=["ids"], model=model, items=train)
    policy = search_curriculum(
        model, train, validation, features, rounds=(16, 128), optimizer=optimizer, out=args.out,
        agent=AgentConfig(steps=args.steps, warm_up=args.steps // 10, hidden=(64, 64)),
        update=UpdateConfig(batch_size=16, eval_every=10, max_updates=200),
        describe=lambda row: " ".join(map(str, row["input_ids"].tolist())),
    )  # fmt: skip
    after = held_out_loss(model, test)
    print(policy.summary())
    print(f"test loss {before:.4f} -> {after:.4f} nats a token")
    return before, after


if __name__ == "__main__":
    main()
