"""Folders of nerfstudio and instant-ngp (``transforms.json``), and DL3DV-10K, which is many of them without depth.

Read as one recording: ``transforms.json``; without it all of ``transforms_train.json``, ``_val``, ``_test`` and the
like together; without these a raw export of Polycam or Record3D (:mod:`probe.scenes.formats.captures`).

Cameras are camera-to-world with OpenGL axes, for a first pixel whose centre is (0.5, 0.5). What nerfstudio did to the
cameras is undone: ``applied_transform`` by its inverse, ``applied_scale`` by dividing the translations; a scale of the
axes is taken off. Values of a frame override those of the file. Images of another size than ``w`` and ``h`` say
(images_4 beside cameras of the full size) scale the intrinsics. Distorted images are resampled to a pinhole camera.
Depth is in metres: a map's numbers times ``depth_unit_scale_factor``, instant-ngp's ``integer_depth_scale``, or 0.001;
``--depth-scale`` overrides them. Without the flag depth maps are compared over the cameras, and refused where another
unit clearly fits. Masks say 0 for pixels to ignore.

Source:
    docs.nerf.studio, data conventions; nerfstudio's depth reader scales .npy depth like PNG depth, and divides what
    applied_scale did by multiplying depth with it; instant-ngp's nerf_loader (docs/references.md, "nerfstudio").
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from probe.scenes.choosing import Recordings
from probe.scenes.depth_files import check_unit
from probe.scenes.files import natural, read_json, take
from probe.scenes.formats import captures
from probe.scenes.formats.captures import Record
from probe.scenes.formats.nerfstudio_frame import Posed, find_image, read_colour, read_depth, read_frame
from probe.scenes.reading import DEFAULT, Dropped, Folder, Reading, read_all
from probe.scenes.recordings import Recording

WHOLE = "transforms.json"
DEEPEST = 3  # folders between the data set's and a recording's; DL3DV has two
EXPECTED = "expected one with a transforms.json, or a raw export of Polycam or Record3D"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A frame as a file lists it.

    Attributes:
        file: The file that lists it.
        base: Folder that its paths start from.
        name: Of the image, as written.
        record: Its values, with those of the file where it has none; or why there are none.
    """

    file: str
    base: Path
    name: str
    record: Record | str

    @property
    def origin(self) -> str:
        """Return where the frame stands, for errors."""
        return f"frame {self.name} of {self.file}"


def find_recordings(path: Path, reading: Reading = DEFAULT) -> Recordings:
    """Find the folders with a ``transforms.json``, or a raw export: this one, or those inside it.

    Args:
        path: The folder, or one ``transforms*.json``.
        reading: How its files are read.

    Raises:
        FileNotFoundError: If there is none.
    """
    if path.is_file():
        root = Folder(path.absolute().parent, reading)
        name = path.stem if path.name != WHOLE else root.path.resolve().name
        return Recordings(root=root.path, names=(name,), open=lambda name: load_recording((path,), name, root))
    root = Folder(path, reading)
    if not root.path.is_dir():
        raise FileNotFoundError(f"nerfstudio: {root} is not a folder; {EXPECTED}")
    files = {_name(root, folder): found for folder, found in _sources(root.path, DEEPEST)}
    if not files:
        raise FileNotFoundError(
            f"nerfstudio: {root} holds no transforms.json, down to {DEEPEST} folders deep; {EXPECTED}"
        )
    names = tuple(sorted(files, key=natural))
    return Recordings(
        root=root.path,
        names=names,
        open=lambda name: load_recording(files[name], name, root),
        note=_joined(files.values()),
    )


def _joined(recordings: Collection[Sequence[Path]]) -> str:
    """Return which files are read together, and in how many recordings."""
    several = [files for files in recordings if len(files) > 1]
    if not several:
        return ""
    where = f" in {len(several)} of {len(recordings)} recordings" if len(recordings) > 1 else ""
    return f"read together{where}: {', '.join(file.name for file in several[0])}"


def _sources(folder: Path, deepest: int) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Return each recording's folder and the files that list its frames."""
    if here := _files(folder):
        yield folder, here
    elif deepest:
        for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _sources(inner, deepest - 1)


def _files(folder: Path) -> tuple[Path, ...]:
    if (folder / WHOLE).is_file():
        return (folder / WHOLE,)
    if splits := tuple(sorted(path for path in folder.glob("transforms*.json") if path.is_file())):
        return splits
    raw = captures.find_polycam(folder) or captures.find_record3d(folder)
    return () if raw is None else (raw,)


def _name(root: Folder, folder: Path) -> str:
    return root.path.resolve().name if folder == root.path else folder.relative_to(root.path).as_posix()


def load_recording(files: Sequence[Path], name: str, root: Folder) -> Recording:
    """Read the cameras of a recording, and find its files; no pixels but of some depth maps, to check their unit.

    Args:
        files: What lists its frames.
        name: Of the recording.
        root: Every file lies inside this.

    Raises:
        ValueError: If no frame can be read; of strict reading, if one cannot.
    """
    listed = sorted((frame for file in files for frame in _list_frames(file, root)), key=lambda one: natural(one.name))
    images = [_image_of(frame, root) for frame in listed]
    repeated = _repeated(listed, images)
    has_depth = any(isinstance(one.record, dict) and _depth_key(one.record) for one in listed)

    def read(place: int) -> tuple[str, Posed]:
        frame, record = listed[place], listed[place].record
        if place in repeated:
            raise ValueError(repeated[place])
        if not isinstance(record, dict):
            raise ValueError(record)
        if has_depth and not _depth_key(record):
            raise ValueError(f"{frame.origin} names no depth file, as others do")
        return frame.name, read_frame(frame.base, root, record, frame.origin)

    named = [(frame.name, partial(read, place)) for place, frame in enumerate(listed)]
    made, dropped = read_all(named, root, ", ".join(map(str, files)))
    made, shared = _own_depths(made, root)
    frames = tuple(frame for _, frame in made)
    recording = Recording(
        name=name,
        names=_names([file for file, _ in made]),
        sizes=tuple(frame.size for frame in frames),
        world_to_cam=_in_metres(torch.stack([frame.world_to_cam for frame in frames]), root.reading.unit),
        intrinsics=torch.stack([frame.intrinsics for frame in frames]),
        colour=partial(_read_colour, frames),
        depth=partial(_read_depth, frames) if has_depth else None,
        unit="m" if has_depth or root.reading.unit else None,
        dropped=(*dropped, *shared),
    )
    if has_depth and root.reading.depth_scale is None:
        check_unit(recording, f"in the unit of {files[0]}", frames[0].depth_unit)
    return recording


def _depth_key(record: Record) -> str | None:
    return next((key for key in ("depth_file_path", "depth_path") if record.get(key)), None)


def _in_metres(world_to_cam: Float[Tensor, "frames 4 4"], unit: float | None) -> Float[Tensor, "frames 4 4"]:
    scale = world_to_cam.new_tensor([[1, 1, 1, unit or 1.0]] * 3 + [[1, 1, 1, 1]])
    return world_to_cam * scale


# --- what the files list ---------------------------------------------------------------------------------------------


def _list_frames(file: Path, root: Folder) -> Iterator[Listed]:
    if file.is_dir():
        raw, base = captures.read_polycam(file, root), file.parent
    elif file.name in captures.RECORD3D:
        raw, base = captures.read_record3d(file, root), file.parent
    else:
        yield from _list_transforms(file, root)
        return
    for where, record in raw:
        name = record["file_path"] if isinstance(record, dict) else Path(where).name
        yield Listed(file=where, base=base, name=name, record=record)


def _list_transforms(file: Path, root: Folder) -> Iterator[Listed]:
    whole = read_json(file, root)
    frames = take(whole, "frames", list, str(file))
    if not frames:
        raise ValueError(f"{file} lists no frames")
    shared = {key: value for key, value in whole.items() if key != "frames"}
    for place, one in enumerate(frames):
        if not isinstance(one, dict) or not isinstance(one.get("file_path"), str):
            number = f"frame {place}"
            yield Listed(file=str(file), base=file.parent, name=number, record=f"{number} of {file} has no 'file_path'")
        else:
            name = one["file_path"].replace("\\", "/")
            yield Listed(file=str(file), base=file.parent, name=name, record={**_of_file(shared, one), **one})


def _of_file(shared: Record, own: Record) -> Record:
    """Return the file's values, without its focal length where the frame has an angle of its own in place of it."""
    hidden = {f"fl_{axis}" for axis in "xy" if "camera_angle_x" in own and "fl_x" not in own}
    return {key: value for key, value in shared.items() if key not in hidden}


def _image_of(frame: Listed, root: Folder) -> Path | None:
    try:
        return find_image(frame.base, root, frame.name, frame.origin).resolve()
    except (OSError, ValueError, RuntimeError):  # told where the frame is read
        return None


def _repeated(listed: Sequence[Listed], images: Sequence[Path | None]) -> dict[int, str]:
    """Return which frames are listed more than once: all where their cameras differ, else all but the first."""
    places = defaultdict[Path, list[int]](list)
    for place, image in enumerate(images):
        if image is not None:
            places[image].append(place)
    reasons = {}
    for image, same in places.items():
        cameras = [
            one.record.get("transform_matrix") for place in same if isinstance((one := listed[place]).record, dict)
        ]
        differ = any(camera != cameras[0] for camera in cameras)
        why = "with different cameras; name the one file that lists them rightly" if differ else "with the same camera"
        for place in same if differ else same[1:]:
            reasons[place] = f"{listed[place].origin}: {image} is listed {len(same)} times, {why}"
    return reasons


def _own_depths(made: list[tuple[str, Posed]], root: Folder) -> tuple[list[tuple[str, Posed]], tuple[Dropped, ...]]:
    """Leave out frames that share a depth file: it shows the scene from one camera only."""
    uses = Counter(frame.depth.resolve() for _, frame in made if frame.depth is not None)

    def read(name: str, frame: Posed) -> tuple[str, Posed]:
        if frame.depth is not None and uses[frame.depth.resolve()] > 1:
            raise ValueError(f"frame {name}: {frame.depth} is the depth of {uses[frame.depth.resolve()]} frames")
        return name, frame

    return read_all([(name, partial(read, name, frame)) for name, frame in made], root, str(root))


def _names(files: Sequence[str]) -> tuple[str, ...]:
    stems = tuple(Path(file).stem for file in files)
    return stems if len(set(stems)) == len(stems) else tuple(files)


# --- pixels ----------------------------------------------------------------------------------------------------------


def _read_colour(frames: Sequence[Posed], index: int) -> Float[Tensor, "3 height width"]:
    return read_colour(frames[index])


def _read_depth(frames: Sequence[Posed], index: int) -> Float[Tensor, "height width"]:
    return read_depth(frames[index])
