"""Video diffusion models of diffusers' pipelines: one file per family; a view is a latent frame."""
