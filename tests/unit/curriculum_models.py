"""Three tiny models built from configs, each with 60 samples: translation, causal LM, classifier."""

import torch
from torch import nn

from tamis.core.rng import torch_generator


def tiny_t5():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=24, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0)
    return seeded(T5ForConditionalGeneration(config)), sequences(encoder=True)


def tiny_gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=24, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    return seeded(GPT2LMHeadModel(config)), sequences(encoder=False)


def tiny_classifier():
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.3), nn.Linear(12, 3))
    generator = torch_generator(4)
    items = [(torch.randn(6, generator=generator), int(torch.randint(3, (), generator=generator))) for _ in range(60)]
    return seeded(model), items


def seeded(model):
    generator = torch_generator(9)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
            elif name.endswith("bias"):
                p.zero_()
    return model.train()


def sequences(encoder):
    generator, items = torch_generator(8), []
    for _ in range(60):
        ids = torch.randint(1, 24, (7,), generator=generator)
        labels = ids.flip(0).clone() if encoder else ids.clone()
        labels[int(torch.randint(4, 8, (), generator=generator)) :] = -100
        items.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return items


MODELS = {"seq2seq": tiny_t5, "causal": tiny_gpt2, "classifier": tiny_classifier}
