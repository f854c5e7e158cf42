"""Cameras as files hold them: rigid transforms, pinholes, lenses that distort; and as views do, in OpenCV's axes."""

from probe.scenes.cameras.rigid import (
    from_cam_to_world,
    from_opengl,
    from_world_to_cam,
    pinhole,
    read_rigid,
    without_scale,
)

__all__ = ["from_cam_to_world", "from_opengl", "from_world_to_cam", "pinhole", "read_rigid", "without_scale"]
