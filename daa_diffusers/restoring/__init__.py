"""Restoration of files, shared by the `daa` command, its page and the bulk job."""
