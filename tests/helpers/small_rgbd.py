"""Write worlds as the RGB-D data sets lay them out."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from small_nerfstudio import save_rgb, save_sixteen
from small_world import World
from torch import Tensor

START = 1305031102.175304  # seconds, as TUM's clock has them
BETWEEN = 1 / 30


def cam_to_world(world: World, index: int) -> Float[Tensor, "4 4"]:
    return torch.linalg.inv(world.world_to_cam[index].double())


def save_matrix(path: Path, matrix: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, matrix.double().numpy())


def quaternion_line(pose: Float[Tensor, "4 4"]) -> str:
    """tx ty tz qx qy qz qw."""
    values = [*pose[:3, 3].tolist(), *Rotation.from_matrix(pose[:3, :3].numpy()).as_quat()]
    return " ".join(f"{value:.9f}" for value in values)


def write_tum(root: Path, world: World, *, late: Sequence[float] = (), scale: float = 5000.0) -> Path:
    """Write rgb.txt, depth.txt and groundtruth.txt; depth k is so many seconds later than colour k."""
    lists: dict[str, list[str]] = {"rgb": ["# color images"], "depth": ["# depth maps"], "groundtruth": ["# truth"]}
    for index in range(len(world.image)):
        time = START + index * BETWEEN
        later = time + (late[index] if late else 0.004)
        save_rgb(root / f"rgb/{time:.6f}.png", world.image[index])
        save_sixteen(root / f"depth/{later:.6f}.png", world.depth[index] * scale)
        lists["rgb"].append(f"{time:.6f} rgb/{time:.6f}.png")
        lists["depth"].append(f"{later:.6f} depth/{later:.6f}.png")
        line = quaternion_line(cam_to_world(world, index))
        elsewhere = quaternion_line(torch.eye(4, dtype=torch.float64))
        near = ((time - 0.005, elsewhere), (time, line), (time + 0.01, elsewhere))
        lists["groundtruth"] += [f"{stamp:.4f} {pose}" for stamp, pose in near]
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_icl(root: Path, world: World) -> Path:
    """Write numbers for times, and the poses of a world and camera mirrored in y, as ICL-NUIM does."""
    mirror = torch.diag(torch.tensor([1.0, -1, 1, 1], dtype=torch.float64))
    poses, pairs = [], ["0 depth/0.png 0 rgb/0.png"]
    save_rgb(root / "rgb/0.png", world.image[0])  # without a pose
    save_sixteen(root / "depth/0.png", world.depth[0] * 5000)
    for index in range(len(world.image)):
        number = index + 1
        save_rgb(root / f"rgb/{number}.png", world.image[index])
        save_sixteen(root / f"depth/{number}.png", world.depth[index] * 5000)
        poses.append(f"{number} {quaternion_line(mirror @ cam_to_world(world, index) @ mirror)}")
        pairs.append(f"{number} depth/{number}.png {number} rgb/{number}.png")
    (root / "livingRoom0.gt.freiburg").write_text("\n".join(poses) + "\n")
    (root / "associations.txt").write_text("\n".join(pairs) + "\n")
    return root


def write_replica(root: Path, world: World, *, scale: float = 6553.5) -> Path:
    """Write a room, and its camera in the folder above."""
    lines = []
    for index in range(len(world.image)):
        save_rgb(root / f"results/frame{index:06d}.jpg", world.image[index])
        save_sixteen(root / f"results/depth{index:06d}.png", world.depth[index] * scale)
        lines.append(" ".join(f"{value:.9e}" for value in cam_to_world(world, index).flatten().tolist()))
    (root / "traj.txt").write_text("\n".join(lines) + "\n")
    (fx, _, cx), (_, fy, cy), _ = world.intrinsics[0].tolist()
    height, width = world.size
    camera = {"w": width, "h": height, "fx": fx, "fy": fy, "cx": cx - 0.5, "cy": cy - 0.5, "scale": scale}
    (root.parent / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return root


def write_seven_scenes(root: Path, world: World, *, intrinsics: bool = False) -> Path:
    """Write a sequence, raw (without intrinsics) or with them."""
    for index in range(len(world.image)):
        stem = f"frame-{index:06d}"
        save_rgb(root / f"{stem}.color.png", world.image[index])
        save_sixteen(root / f"{stem}.depth.png", world.depth[index] * 1000)
        save_matrix(root / f"{stem}.pose.txt", cam_to_world(world, index))
    if intrinsics:
        save_matrix(root / "camera-intrinsics.txt", world.intrinsics[0])
    return root


def write_bundle_fusion(
    root: Path, world: World, *, larger: int = 1, shift: float = 1000.0, name: str = "info.txt"
) -> Path:
    """Write info.txt; colour is so many times larger than depth, each pixel repeated."""
    whole = torch.eye(4)
    whole[:3, :3] = world.intrinsics[0]
    colour = torch.diag(torch.tensor([larger, larger, 1.0, 1.0])) @ whole
    height, width = world.size
    identity = " ".join(f"{value:g}" for value in torch.eye(4).flatten().tolist())
    for index in range(len(world.image)):
        stem = f"frame-{index:06d}"
        grown = world.image[index].repeat_interleave(larger, 1).repeat_interleave(larger, 2)
        save_rgb(root / f"{stem}.color.jpg", grown)
        save_sixteen(root / f"{stem}.depth.png", world.depth[index] * shift)
        save_matrix(root / f"{stem}.pose.txt", cam_to_world(world, index))
    lines = {
        "m_versionNumber": "4",
        "m_sensorName": "StructureSensor",
        "m_colorWidth": width * larger,
        "m_colorHeight": height * larger,
        "m_depthWidth": width,
        "m_depthHeight": height,
        "m_depthShift": f"{shift:g}",
        "m_calibrationColorIntrinsic": " ".join(map(str, colour.flatten().tolist())),
        "m_calibrationColorExtrinsic": identity,
        "m_calibrationDepthIntrinsic": " ".join(map(str, whole.flatten().tolist())),
        "m_calibrationDepthExtrinsic": identity,
        "m_frames.size": len(world.image),
    }
    (root / name).write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
    return root


def write_stray(root: Path, world: World, *, full: float = 40.0, every: int = 1) -> Path:
    """Write a scan whose depth has so many times fewer pixels than colour, whose camera is of the full size."""
    lines = ["timestamp, frame, x, y, z, qx, qy, qz, qw"]
    for index in range(len(world.image)):
        save_rgb(root / f"rgb/{index:06d}.png", world.image[index])
        depth = world.depth[index][every // 2 :: every, every // 2 :: every]
        save_sixteen(root / f"depth/{index:06d}.png", depth * 1000)
        values = quaternion_line(cam_to_world(world, index)).replace(" ", ", ")
        lines.append(f"{100 + index / 60:.6f}, {index:06d}, {values}")
    (root / "odometry.csv").write_text("\n".join(lines) + "\n")
    matrix = world.intrinsics[0].double() * torch.tensor([full, full, 1], dtype=torch.float64)[:, None]
    np.savetxt(root / "camera_matrix.csv", matrix.numpy(), delimiter=", ")
    return root
