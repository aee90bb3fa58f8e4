"""Training objectives: the joint step of noise-space adaptation, and the baselines that it is compared with."""
