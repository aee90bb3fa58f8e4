"""Photos of a disk, restored into files: what the `daa` command, its page and the bulk job have in common."""
