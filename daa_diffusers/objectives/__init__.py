"""Training objectives: noise-space adaptation, renoised self-distillation, supervised training, and baselines."""
