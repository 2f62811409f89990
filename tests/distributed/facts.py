"""Facts about accelerate on two processes that tamis relies on; run on each rank by test_upstream_facts.py."""

import torch
from accelerate import Accelerator, skip_first_batches
from torch.utils.data import DataLoader, DistributedSampler, Sampler, TensorDataset

from tamis.core.distributed import gather_objects


class EpochRecorder(Sampler):
    """Identity order; remembers every set_epoch."""

    def __init__(self, size):
        self.size, self.epochs = size, []

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(range(self.size))

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def prepared(sampler, size=32):
    data = TensorDataset(torch.arange(size))
    return Accelerator(cpu=True).prepare(DataLoader(data, batch_size=4, sampler=sampler))


def distributed_sampler_is_sharded_twice():
    sampler = DistributedSampler(range(32), shuffle=False)
    mine = [i for (batch,) in prepared(sampler) for i in batch.tolist()]
    return len({i for part in gather_objects(mine) for i in part})


def global_order_is_dealt_in_batches():
    return [batch.tolist() for (batch,) in prepared(EpochRecorder(32))]


def set_epoch_misses_the_sampler_after_skipping():
    sampler = EpochRecorder(32)
    loader = prepared(sampler)
    list(loader)
    before = len(sampler.epochs)
    skipped = skip_first_batches(loader, 1)
    skipped.set_epoch(5)
    list(skipped)
    return {"before": before, "after_skip": len(sampler.epochs) - before}
