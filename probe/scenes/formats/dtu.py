"""DTU, objects photographed by a robot's arm, and other sets in the layouts that its users made.

``dtu:FOLDER`` reads MVSNet's layouts (:mod:`probe.scenes.formats.mvsnet`: DTU, BlendedMVS, Tanks and Temples, ETH3D)
and IDR's (:mod:`probe.scenes.formats.idr`: DTU as IDR, pixelNeRF, VolSDF and NeuS have it, H3D-Net). The folder is that
of the scans, or a scan itself.
"""

from pathlib import Path

from probe.scenes.choosing import Recordings
from probe.scenes.files import natural
from probe.scenes.formats import idr, mvsnet
from probe.scenes.reading import DEFAULT, Folder, Reading

EXPECTED = (
    "expected Rectified/scan1_train with Cameras/train, scan1/images (or blended_images) with scan1/cams (or cams_1), "
    "or scan1/image with scan1/cameras.npz (or cameras_sphere.npz)"
)


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the scans of a folder, in any of the layouts.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"dtu: {root} is not a folder; {EXPECTED}")
    openers = dict((*mvsnet.scans(root), *idr.scans(root)))
    if not openers:
        raise FileNotFoundError(f"dtu: {root} holds no scans; {EXPECTED}")
    return Recordings(root=root.path, names=tuple(sorted(openers, key=natural)), open=lambda name: openers[name]())
