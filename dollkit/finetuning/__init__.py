"""Fine-tuning on few masks: starts, runs, grids, perturbed films."""
