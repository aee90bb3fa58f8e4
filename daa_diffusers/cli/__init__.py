"""The command `daa`: a file for each of its commands, which import what is heavy only when they run."""
