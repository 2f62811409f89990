"""Bad input at the seams: each message names the cause and the cure."""

import copy

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)
from transformers import Trainer, TrainerCallback

from tamis import TamisError
from tamis.callbacks import EpochCallback, PruningCallback, ResumableLoader, SamplerCallback, attach
from tamis.core.state import from_jsonable, read_state, to_jsonable, write_state
from tamis.testing import ScaleL1, ShuffleSampler
from tamis.testing.toys import IndexedDataset, ToyModel
from tamis.testing.trainers import quiet_arguments


class Stream(IterableDataset):
    def __iter__(self):
        yield from (IndexedDataset(8)[i] for i in range(8))


def make_trainer(folder, dataset=None, callbacks=None, **options):
    settings = quiet_arguments(folder, **{"per_device_train_batch_size": 4, "max_steps": 4, **options})
    return Trainer(ToyModel(), settings, train_dataset=dataset or IndexedDataset(8), callbacks=callbacks)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (DistributedSampler(range(8), num_replicas=2, rank=0), "shards by itself"),
        (RandomSampler(range(8)), "accelerate replaces every RandomSampler"),
        (SequentialSampler(range(8)), "must be a torch Sampler with __len__, set_epoch"),
    ],
)
def test_samplers_that_a_trainer_would_misuse(tmp_path, sampler, words):
    with pytest.raises(TypeError, match=words):
        attach(make_trainer(tmp_path), sampler)


def test_iterable_dataset_and_wrong_size(tmp_path):
    with pytest.raises(TypeError, match="no sampler can index"):
        attach(make_trainer(tmp_path, Stream()), ShuffleSampler(8))
    with pytest.raises(ValueError, match="made for 9 items, but train_dataset has 8"):
        attach(make_trainer(tmp_path), ShuffleSampler(9))


def test_attach_refuses_other_targets_and_components(tmp_path):
    with pytest.raises(TypeError, match="must be a transformers Trainer or an accelerate Accelerator"):
        attach(object(), ShuffleSampler(8))
    with pytest.raises(TypeError, match="must be a sampler, a Regularizer, a Pruner, a LossTrajectory, or"):
        attach(make_trainer(tmp_path), object())
    with pytest.raises(TypeError, match=r"pruner=ToyModel: must be a pruner made from the model"):
        PruningCallback(ToyModel())
    with pytest.raises(ValueError, match="must be 'grad' or 'loss'"):
        attach(make_trainer(tmp_path), ScaleL1(ToyModel().scale), penalty="sum")


class Epochs:
    """A collator that notes the epoch it was told at each batch."""

    def __init__(self):
        self.epoch, self.seen = None, []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __call__(self, rows):
        self.seen.append(self.epoch)
        return default_collate(rows)


@pytest.mark.parametrize("attached", [True, False])
def test_a_collator_is_told_the_epoch(tmp_path, attached):
    trainer = make_trainer(tmp_path, max_steps=-1, num_train_epochs=3)
    trainer.data_collator = collator = Epochs()
    if attached:
        assert isinstance(attach(trainer, collator), EpochCallback)
    trainer.train()
    assert collator.seen == ([0, 0, 1, 1, 2, 2] if attached else [None] * 6)


def test_length_changed_after_preparation(tmp_path):
    sampler = ShuffleSampler(8)
    trainer = make_trainer(tmp_path, max_steps=-1, num_train_epochs=3)
    attach(trainer, sampler)
    loader = ResumableLoader(DataLoader(IndexedDataset(8), sampler=sampler), sampler)

    class Shrink(TrainerCallback):
        def on_epoch_end(self, *args, **kwargs):
            sampler.num_samples = 4

    trainer.add_callback(Shrink())
    with pytest.raises(ValueError, match=r"len\(sampler\)=4: was 8 when training was prepared"):
        trainer.train()
    with pytest.raises(ValueError, match=r"len\(sampler\)=4"):
        list(loader)


def test_sampler_callback_alone_swaps_the_sampler(tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[SamplerCallback(ShuffleSampler(8, seed=3))], max_steps=2)
    trainer.train()
    assert [index for batch in trainer.model.seen for index in batch] == list(ShuffleSampler(8, seed=3))


def test_checkpoint_without_the_component(tmp_path):
    make_trainer(tmp_path, save_strategy="steps", save_steps=1).train()
    resumed = make_trainer(tmp_path)
    attach(resumed, ShuffleSampler(8))
    with pytest.raises(TamisError, match="holds no state of SamplerCallback"):
        resumed.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")


def test_deepspeed_and_data_parallel_are_refused(tmp_path):
    model = ToyModel()
    callback = PruningCallback(ScaleL1(model.scale))
    arguments = make_trainer(tmp_path).args
    for name, value, words in (("deepspeed", "zero.json", 'penalty="loss"'), ("_n_gpu", 2, "launch with torchrun")):
        broken = copy.copy(arguments)
        setattr(broken, name, value)
        with pytest.raises(TamisError, match=words):
            callback.on_train_begin(broken, None, None, model=model)


def test_state_codec_round_trip_and_damage(tmp_path):
    tensors = {str(d): torch.tensor([1, 0, 3]).to(d) for d in (torch.float64, torch.bfloat16, torch.bool, torch.uint8)}
    state = {"a": [1, 2.5, None, "x"], "t": tensors, "empty": torch.empty(0, 3), "scalar": torch.tensor(2.0)}
    write_state(tmp_path / "s.json", state)
    back = read_state(tmp_path / "s.json")
    assert back["a"] == state["a"]
    assert back["empty"].shape == (0, 3)
    assert back["scalar"].shape == ()
    assert all(torch.equal(back["t"][k], v) and back["t"][k].dtype == v.dtype for k, v in tensors.items())
    with pytest.raises(TypeError, match="must be JSON, a tensor or an array"):
        to_jsonable({"f": object()})
    (tmp_path / "s.json").write_text((tmp_path / "s.json").read_text()[:-20])
    with pytest.raises(TamisError, match="no readable tamis state"):
        read_state(tmp_path / "s.json")
    with pytest.raises(TamisError, match="no readable tamis state"):
        read_state(tmp_path / "missing.json")
    assert from_jsonable([1]) == [1]


def test_resumable_loader_refuses_other_components():
    sampler = ShuffleSampler(8)
    loader = DataLoader(IndexedDataset(8), sampler=sampler)
    state = ResumableLoader(loader, sampler).state_dict()
    with pytest.raises(ValueError, match="build the ResumableLoader with the same names"):
        ResumableLoader(loader, sampler, other=sampler).load_state_dict(state)


def test_resumable_loader_refuses_a_loader_that_draws_elsewhere():
    sampler, data = ShuffleSampler(8), IndexedDataset(8)
    with pytest.raises(ValueError, match="draws from a RandomSampler, not from the sampler"):
        ResumableLoader(DataLoader(data, batch_size=2, shuffle=True), sampler)
    batches = torch.utils.data.BatchSampler(sampler, 2, False)
    with pytest.raises(ValueError, match="batch_sampler of its own"):
        ResumableLoader(DataLoader(data, batch_sampler=batches), sampler)


class CountedL1(ScaleL1):
    calls = 0

    def penalty(self):
        self.calls += 1
        return super().penalty()


@pytest.mark.parametrize("penalty", ["grad", "loss"])
def test_attaching_twice_replaces(tmp_path, penalty):
    trainer = make_trainer(tmp_path)
    first, second = (CountedL1(trainer.model.scale) for _ in range(2))
    attach(trainer, first, penalty="loss")
    attach(trainer, second, penalty=penalty)
    trainer.train()
    assert (first.calls, second.calls) == (0, 4)


@pytest.mark.parametrize("flag", [False, True])
def test_penalty_in_the_loss_is_added_once_after_a_resume(tmp_path, flag):
    def run(**options):
        trainer = make_trainer(tmp_path, restore_callback_states_from_checkpoint=flag, **options)
        other = make_trainer(tmp_path)  # another trainer's callback must not be taken for this one's
        component = CountedL1(trainer.model.scale)
        callback = attach(trainer, component, penalty="loss", prune_at_end=False)
        attach(trainer, ShuffleSampler(8))
        attach(other, CountedL1(other.model.scale), penalty="loss")
        return trainer, component, callback

    whole, *_ = run(save_strategy="steps", save_steps=2)
    whole.train()
    again, component, callback = run()
    again.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")
    assert component.calls == 2
    assert torch.equal(whole.model.scale, again.model.scale)
    live = next(cb for cb in again.callback_handler.callbacks if isinstance(cb, PruningCallback))
    assert live.component is component
    assert live._in_loss
    assert not live.prune_at_end
    assert live.__dict__ is callback.__dict__


def test_a_stream_is_cut_without_example_rows(tmp_path):
    from tests.contract.factories import Clicks, make_dimreg

    class Stream(IterableDataset):
        def __iter__(self):
            data = Clicks()
            yield from (data[i] for i in range(24))

    model, pruner, _ = make_dimreg()
    settings = quiet_arguments(tmp_path, per_device_train_batch_size=2, max_steps=24)
    trainer = Trainer(model, settings, train_dataset=Stream())
    callback = attach(trainer, pruner)
    trainer.train()
    assert callback.plan is not None
    assert pruner.report.output_change is None


def test_passes_without_epochs_are_epochs_and_other_batch_sizes_go_on():
    sampler, data = ShuffleSampler(8), IndexedDataset(8)
    batches = ResumableLoader(DataLoader(data, batch_size=2, sampler=sampler), sampler)
    passes = [[i for batch in batches for i in batch["index"].tolist()] for _ in range(3)]
    assert [sorted(indices) for indices in passes] == [list(range(8))] * 3
    assert passes[0] != passes[1] != passes[2]
    running = iter(batches)
    next(running)
    state = batches.state_dict()
    rest = [i for batch in running for i in batch["index"].tolist()]
    for size in (1, 4, 5, 8):
        other = ShuffleSampler(8)
        again = ResumableLoader(DataLoader(data, batch_size=size, sampler=other), other)
        again.load_state_dict(state)
        assert [i for batch in again for i in batch["index"].tolist()] == rest
        assert again.position == 8
    other = ShuffleSampler(8)
    again = ResumableLoader(DataLoader(data, batch_size=4, sampler=other), other)
    del state["position"]  # as release 0.1 saved it
    with pytest.raises(ValueError, match="had 4 batches an epoch, this one has 2"):
        again.load_state_dict(state)


def test_a_pruner_of_another_model_is_refused(tmp_path):
    from tests.contract.factories import Clicks, make_deepfm, make_dimreg

    _, pruner, _ = make_dimreg()
    settings = quiet_arguments(tmp_path, per_device_train_batch_size=2, max_steps=2)
    trainer = Trainer(make_deepfm(), settings, train_dataset=Clicks(), callbacks=[PruningCallback(pruner)])
    with pytest.raises(TamisError, match="made for another DeepFM"):
        trainer.train()
