"""The command `daa`: a module for each of its commands, which imports torch and diffusers only when it runs."""
