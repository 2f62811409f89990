"""One thread a process, here and in every process that a test starts: sums then agree bit for bit."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
