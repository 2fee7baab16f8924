"""What a frame says about a network: the main path through it, and its most striking facts."""
