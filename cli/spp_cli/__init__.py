"""The command line of ``spp``; the library knows nothing of it."""
