"""Restoration of photo files, shared by the `daa` command, the demo page and bulk jobs."""
