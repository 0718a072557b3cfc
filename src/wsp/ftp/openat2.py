"""openat2(2) with RESOLVE_BENEATH, which Python does not have: the kernel itself refuses every way out of a folder."""

import ctypes
import errno
import os

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_RETRIES = 8  # openat2 says EAGAIN when a rename went on elsewhere at the same time


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def open_beneath(folder: int, path: str, flags: int) -> int:
    """A descriptor of what `path` leads to from `folder`, links followed as long as they stay beneath it.

    Raises OSError; EXDEV for a link that leads out, or is absolute.
    """
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=0, resolve=_RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path)
    for _ in range(_RETRIES):
        opened = _syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_long(folder),
            ctypes.c_char_p(name),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if opened >= 0:
            return int(opened)
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), path)


def has_openat2() -> bool:
    """Whether this kernel has it, and lets us use it."""
    root = os.open("/", _FOLDER)
    try:
        os.close(open_beneath(root, ".", _FOLDER))
    except OSError:
        return False  # an old kernel, or a container that forbids what it does not know
    finally:
        os.close(root)
    return True
