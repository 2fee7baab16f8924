"""``python -m spp`` is the command ``spp``."""

from importlib import import_module

# by name, since no module of the library imports the command line, which stands on it
if __name__ == "__main__":
    import_module("spp_cli.main").cli(prog_name="python -m spp")
