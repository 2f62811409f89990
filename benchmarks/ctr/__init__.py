"""What the click-through-rate benchmarks share: data, rivals, training."""
