"""Write a small checkpoint laid out as Stable Virtual Camera's release: ``python tests/helpers/small_seva.py OUT``.

``OUT/model.safetensors`` holds the network's bare names, ``OUT/params.json`` the sizes that differ from the release's,
``OUT/vae/`` an autoencoder. With the stand-in for the package on PYTHONPATH (the script finds it by itself),
``PYTHONPATH=tests/helpers/standins python -m probe.run --model seva:OUT --base OUT --model-size 64 --pairs 4
--timesteps 500 --baselines none`` probes it in seconds.
"""

import json
import sys
from pathlib import Path
from typing import Any

STANDINS = Path(__file__).parent / "standins"
sys.path[:0] = [str(Path(__file__).parents[2])] if __name__ == "__main__" else []

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from small_cat3d import make_vae  # noqa: E402
from torch import nn  # noqa: E402

SMALL: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": [1, 1, 2, 2],
    "num_head_channels": 16,
    "context_dim": 24,
}


def make_network(seed: int = 0, **changes: Any) -> nn.Module:
    """The package's own network, with random weights."""
    from seva.model import Seva, SevaParams

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Seva(SevaParams(**{**SMALL, **changes})).eval()


def save_small(out: Path, *, name: str = "model.safetensors") -> Path:
    """Write weights, sizes and vae/."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(make_network().state_dict(), out / name)
    (out / "params.json").write_text(json.dumps(SMALL))
    make_vae().save_pretrained(out / "vae")
    return out


if __name__ == "__main__":
    sys.path.insert(0, str(STANDINS))
    print(save_small(Path(sys.argv[1])))
