"""What is trained: the joint step of noise-space adaptation and the objectives it is compared with."""
