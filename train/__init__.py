"""Train multi-view diffusion models with supervised attention, evaluate them, and compare ways of training."""
