"""Numbers of bytes, for people."""

_UNITS = ("KB", "MB", "GB", "TB")


def size_text(size: int) -> str:
    """A number of bytes, as in `3.0 MB`; MB of 2^20."""
    if size < 1024:
        return f"{size} byte" if size == 1 else f"{size} bytes"
    power = min((size.bit_length() - 1) // 10, len(_UNITS))
    return f"{size / 1024**power:.1f} {_UNITS[power - 1]}"
