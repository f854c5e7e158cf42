"""The denoising error: a known case."""

from dataclasses import replace

import torch
from training import rooms, small_model

from probe.models.schedules import velocity
from train.objectives.diffusion import denoising_error


def test_the_error_is_zero_for_a_perfect_prediction_and_counts_targets_only():
    class Oracle(torch.nn.Module):
        def forward(self, latents, t, inputs, domain):  # gives the true v in targets, nonsense in references
            return self.answer

    model = replace(small_model(), network=Oracle())
    views = rooms().draw(torch.Generator().manual_seed(0), 2, n_ref=1)
    noise = torch.randn(views.image.shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([10, 900])
    answer = velocity(views.image * 2 - 1, noise, model.alpha_bar[t])
    answer[:, :1] = 100.0
    model.network.answer = answer
    torch.testing.assert_close(denoising_error(model, views, t, noise), torch.zeros(2))
    answer[1, 1] += 2.0
    torch.testing.assert_close(denoising_error(model, views, t, noise), torch.tensor([0.0, 4.0]))
