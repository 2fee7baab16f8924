"""The inside of :func:`spp.watch`: which calls belong to which step, one sampled step, and where its rows go."""
