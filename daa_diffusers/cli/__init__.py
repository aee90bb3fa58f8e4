"""The command `daa`: one module per subcommand, which imports torch and diffusers only when it runs."""
