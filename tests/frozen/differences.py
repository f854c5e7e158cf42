"""Compare two digests of runs, and say in words which part of which file of which run differs."""

from typing import Any

Digests = dict[str, dict[str, dict[str, Any]]]
"""Run, file, part -> digest, or summary."""
RELATIVE, ABSOLUTE = 0.01, 1e-5


def files_of(digests: Digests) -> set[tuple[str, str]]:
    """List the files of all runs."""
    return {(run, name) for run, files in digests.items() for name in files}


def differences(before: Digests, now: Digests, portable: bool) -> list[tuple[str, str]]:
    """Find what differs.

    Args:
        before: What was frozen.
        now: What was measured.
        portable: Whether numbers may differ a little, as they do between machines.

    Returns:
        Run and sentence of each difference, one a file.
    """
    old, new = files_of(before), files_of(now)
    found = [(run, f"{name} is missing") for run, name in sorted(old - new)]
    found += [(run, f"{name} is new") for run, name in sorted(new - old)]
    for run, name in sorted(old & new):
        words = _parts(before[run][name], now[run][name], portable)
        if words:
            found.append((run, f"{name}: {'; '.join(words)}"))
    return found


def _parts(before: dict[str, Any], now: dict[str, Any], portable: bool) -> list[str]:
    words = [f"{part} is missing" for part in before if part not in now]
    words += [f"{part} is new" for part in now if part not in before]
    changed = [part for part in before if part in now and not _same(before[part], now[part], portable)]
    if portable:
        return words + [f"{part}: {_told(before[part], now[part])}" for part in changed]
    return words + ([f"{', '.join(changed)} differ"] if changed else [])


def _told(before: Any, now: Any) -> str:
    """Say what changed, of a group of numbers only those that did."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        keys = [key for key in before if not _same(before[key], now[key], True)]
        return ", ".join(f"{key} was {_cut(before[key])}, is {_cut(now[key])}" for key in keys)
    return f"was {_cut(before)}, is {_cut(now)}"


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _same(before: Any, now: Any, portable: bool) -> bool:
    if not portable or type(before) is not type(now):
        return bool(before == now)
    if isinstance(before, dict):
        return before.keys() == now.keys() and all(_same(before[key], now[key], True) for key in before)
    if isinstance(before, list):
        return _same_list(before, now)
    return _close(before, now, abs(before)) if isinstance(before, float) else bool(before == now)


def _same_list(before: list[Any], now: list[Any]) -> bool:
    """Compare count, mean and deviation, which are close on the scale of both; or any other list."""
    if len(before) != 3 or not all(isinstance(part, float) for part in (*before[1:], *now[1:])):
        return before == now
    scale = abs(before[1]) + before[2]
    return before[0] == now[0] and all(_close(a, b, scale) for a, b in zip(before[1:], now[1:], strict=True))


def _close(before: float, now: float, scale: float) -> bool:
    return abs(before - now) <= RELATIVE * scale + ABSOLUTE
