"""What tamis relies on in transformers and accelerate, each seen by running it.

A new release that changes one of these fails here first, with the fact's name, before a user sees a wrong order.
"""

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import SeedableRandomSampler, get_sampler
from torch.utils.data import DataLoader, RandomSampler
from transformers import Trainer, TrainerCallback

from tamis.callbacks import attach
from tamis.testing import ShuffleSampler, run_distributed
from tamis.testing.toys import IndexedDataset, ToyModel
from tamis.testing.trainers import quiet_arguments


def arguments(folder, **options):
    return quiet_arguments(folder, **{"per_device_train_batch_size": 4, "num_train_epochs": 2, **options})


def test_accelerate_replaces_every_random_sampler_and_keeps_others():
    class MyRandom(RandomSampler):
        pass

    data = IndexedDataset(8)
    accelerator = Accelerator(cpu=True, dataloader_config=None)
    accelerator.dataloader_config.use_seedable_sampler = True
    replaced = get_sampler(accelerator.prepare(DataLoader(data, sampler=MyRandom(data))))
    assert isinstance(replaced, SeedableRandomSampler)
    mine = ShuffleSampler(8)
    assert get_sampler(accelerator.prepare(DataLoader(data, sampler=mine))) is mine


def test_events_of_one_optimizer_step_come_in_this_order(tmp_path):
    events = []

    class Recorder(TrainerCallback):
        def on_step_begin(self, *args, model, **kwargs):
            events.append(("begin", model.scale.grad is None))

        def on_pre_optimizer_step(self, *args, model, **kwargs):
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            events.append(("pre", float(norm) <= 0.1 + 1e-5))  # clipped already

        def on_optimizer_step(self, *args, model, **kwargs):
            events.append(("step", model.scale.grad is not None))

    options = dict(gradient_accumulation_steps=2, max_grad_norm=0.1, max_steps=1)
    Trainer(ToyModel(), arguments(tmp_path, **options), train_dataset=IndexedDataset(8), callbacks=[Recorder()]).train()
    assert events == [("begin", True), ("pre", True), ("step", True)]


def test_best_model_is_loaded_before_on_train_end(tmp_path):
    seen = {}

    class Recorder(TrainerCallback):
        def on_train_end(self, args, state, control, model, **kwargs):
            seen["best"] = state.best_model_checkpoint
            seen["scale"] = model.scale.detach().clone()

    options = dict(save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True, learning_rate=5.0)
    model, data = ToyModel(), IndexedDataset(8)
    Trainer(
        model, arguments(tmp_path, **options), train_dataset=data, eval_dataset=data, callbacks=[Recorder()]
    ).train()
    from safetensors.torch import load_file

    assert torch.equal(load_file(f"{seen['best']}/model.safetensors")["scale"], seen["scale"])


@pytest.mark.parametrize("flag", [False, True])
def test_callback_state_survives_either_way_of_resuming(tmp_path, flag):
    def trainer(**options):
        made = Trainer(ToyModel(), arguments(tmp_path, **options), train_dataset=IndexedDataset(24))
        attach(made, ShuffleSampler(24, seed=5))
        return made

    whole = trainer(save_strategy="steps", save_steps=4)
    whole.train()
    again = trainer(restore_callback_states_from_checkpoint=flag)
    again.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-8")
    assert again.model.seen == whole.model.seen[8:]
    assert torch.equal(again.model.scale, whole.model.scale)


def test_two_process_facts():
    assert run_distributed("tests.distributed.facts:distributed_sampler_is_sharded_twice") == [16, 16]
    first, second = run_distributed("tests.distributed.facts:global_order_is_dealt_in_batches")
    assert [i for pair in zip(first, second, strict=True) for batch in pair for i in batch] == list(range(32))
    for result in run_distributed("tests.distributed.facts:set_epoch_misses_the_sampler_after_skipping"):
        assert result["after_skip"] == 0 < result["before"]
