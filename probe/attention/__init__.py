"""A denoising step to its attention calls: observed, edited or supervised while the model runs."""
