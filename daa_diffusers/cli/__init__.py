"""The command `daa`: one module per subcommand; torch and diffusers are imported only when a command runs."""
