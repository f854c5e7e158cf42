"""The running average of the weights that train: it is evaluated and saved in their place."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from probe.models.model import MultiViewModel
from train.loop.sharing import as_shared, gathered
from train.loop.trainer import Trainer, load_weights
from train.trainable import trained_weights


@contextmanager
def averaged(trainer: Trainer) -> Iterator[MultiViewModel]:
    """Yield the model with averaged weights, for the main process; all processes must call this.

    The trained weights come back afterwards. Where processes share the weights out, the model is a whole copy that only
    the main process has.
    """
    if trainer.shares_weights:
        _fill_copy(trainer)
        yield trainer.evaluated.model
        if trainer.copy is not None:
            trainer.copy.cpu()
        return
    parameters = list(trained_weights(trainer.network).values())
    trainer.ema.store(parameters)
    trainer.ema.copy_to(parameters)
    trainer.network.eval()
    try:
        yield trainer.model
    finally:
        trainer.ema.restore(parameters)
        trainer.network.train()


def keep_average(trainer: Trainer) -> None:
    """Put the averaged weights into the model that is evaluated, for good."""
    if trainer.shares_weights:
        _fill_copy(trainer)
        return
    trainer.ema.copy_to(trained_weights(trainer.network).values())
    trainer.network.eval()


def average_whole(trainer: Trainer) -> dict[str, Tensor]:
    """Return the averaged weights that train, by name, for the main process; all processes must call this."""
    named = trained_weights(trainer.network)
    shadows = zip(named, shared_average(trainer), strict=True)
    return gathered(dict(shadows), keep=trainer.accelerator.is_main_process)


def shared_average(trainer: Trainer) -> list[Tensor]:
    """Return the averaged weights, shared out as the weights are."""
    weights = trained_weights(trainer.network).values()
    return [as_shared(part, weight) for part, weight in zip(trainer.ema.shadow_params, weights, strict=True)]


def _fill_copy(trainer: Trainer) -> None:
    """Put averaged weights, buffers and the objective into the main process's whole copy, on its device."""
    keep = trainer.accelerator.is_main_process
    weights = average_whole(trainer)
    objective = {} if trainer.objective is None else gathered(trainer.objective.state_dict(), keep=keep)
    if trainer.copy is None:
        return
    copy = trainer.copy.to(trainer.model.alpha_bar.device).eval()
    load_weights(copy.network, {**dict(trainer.network.named_buffers()), **weights})
    if copy.objective is not None:
        load_weights(copy.objective, objective)
