"""Making pruned layers give again what the dense ones gave, without training."""
