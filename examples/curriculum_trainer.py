"""Reinforced curriculum with Hugging Face's Seq2SeqTrainer: continue a small Marian model on what still helps it.

    python examples/curriculum_trainer.py --out runs/curriculum

The task is made up (reverse a sequence; a third of the targets are noise), the model is built from a config.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import MarianConfig, MarianMTModel, Seq2SeqTrainer, Seq2SeqTrainingArguments

from tamis.callbacks import attach
from tamis.core import torch_generator
from tamis.features import curriculum_features
from tamis.samplers import CurriculumSampler
from tamis.search import AgentConfig, search_curriculum

PAD, START, WORDS = 0, 1, 20


class Pad:
    """Pads ``input_ids`` and labels; as `DataCollatorForSeq2Seq` does with a tokenizer."""

    def __call__(self, rows):
        rows = [{name: torch.tensor(row[name]) for name in ("input_ids", "labels")} for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], True, PAD)
        labels = torch.nn.utils.rnn.pad_sequence([row["labels"] for row in rows], True, -100)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


def make_data(count, noise, seed):
    """Rows of token ids; a share ``noise`` has the target of nothing."""
    generator, rows = torch_generator(seed), []
    for _ in range(count):
        ids = torch.randint(2, WORDS, (int(torch.randint(3, 9, (), generator=generator)),), generator=generator)
        wrong = torch.rand((), generator=generator) < noise
        target = torch.randint(2, WORDS, ids.shape, generator=generator) if wrong else ids.flip(0)
        rows.append({"input_ids": ids.tolist(), "labels": target.tolist()})
    return rows


def make_model():
    config = MarianConfig(
        vocab_size=WORDS, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=PAD, eos_token_id=START,
        decoder_start_token_id=PAD, forced_eos_token_id=None, max_position_embeddings=32,
    )  # fmt: skip
    return MarianMTModel(config)


def train(model, rows, held_out, folder, epochs, sampler=None):
    arguments = Seq2SeqTrainingArguments(
        str(folder), per_device_train_batch_size=16, num_train_epochs=epochs, learning_rate=2e-3, report_to=[],
        use_cpu=True, remove_unused_columns=False, save_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = Seq2SeqTrainer(model, arguments, train_dataset=rows, eval_dataset=held_out, data_collator=Pad())
    if sampler is not None:
        attach(trainer, sampler)
    trainer.train()
    return trainer.evaluate()["eval_loss"]


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/curriculum"))
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args(argv)

    rows = make_data(args.samples, 0.3, seed=1)
    validation, test = make_data(200, 0.0, seed=2), make_data(200, 0.0, seed=3)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = make_model()
    before = train(model, rows, test, args.out / "before", args.epochs)

    features = curriculum_features(rows, text=["input_ids", "labels"], model=model, collate=Pad())
    policy = search_curriculum(
        model, rows, validation, features, rounds=(16,), update=None, collate=Pad(), out=args.out / "policy",
        agent=AgentConfig(steps=args.steps, warm_up=args.steps // 10, hidden=(64, 64)), describe=str,
    )  # fmt: skip
    print(policy.summary())
    sampler = CurriculumSampler(policy, features, seed=0)
    after = train(model, rows, test, args.out / "after", 3, sampler)
    print(f"test loss {before:.3f} -> {after:.3f}; {sampler.report(3)['share']:.0%} of the chosen samples are distinct")
    return before, after


if __name__ == "__main__":
    main()
