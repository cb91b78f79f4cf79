"""The system calls that a runner may not make, as a classic BPF program for `bwrap --seccomp`.

A deny list beside namespaces, rlimits and an own user, not instead of them: it closes kernel doors that no
computation needs. Sockets are refused but for AF_UNIX, since a network namespace does not hold AF_VSOCK or AF_ALG.
"""

import errno
import platform
import struct

# Numbers of <linux/audit.h>, <linux/bpf_common.h> and <linux/seccomp.h>.
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCH, _ARGUMENT_0 = 0, 4, 16
_CLONE_NEW_ANY = 0x7E020000  # The CLONE_NEW* flags that clone(2) takes; CLONE_NEWTIME is for unshare and clone3 only.
_AF_UNIX = 1
_X32_BIT = 0x40000000

# System call: its number on x86_64 and on aarch64; None where there is none.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
}
_CLONE3 = 435
_CLONE = {"x86_64": 56, "aarch64": 220}
_SOCKET = {"x86_64": 41, "aarch64": 198}


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _refuse(error: int) -> bytes:
    return _step(_RETURN, _ERRNO | error)


def filter_program(machine: str | None = None) -> bytes | None:
    """The filter for this processor (or `machine`), None for one that has no table here."""
    machine = machine or platform.machine()
    if machine not in _AUDIT_ARCH:
        return None
    column = 0 if machine == "x86_64" else 1
    program = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, _AUDIT_ARCH[machine], if_true=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        program += [_step(_AT_LEAST, _X32_BIT, if_false=1), _refuse(errno.ENOSYS)]
    for numbers in _DENIED.values():
        if (number := numbers[column]) is not None:
            program += [_step(_EQUAL, number, if_false=1), _refuse(errno.EPERM)]
    # The flags of clone3 are behind a pointer; "not implemented" makes the C library use clone.
    program += [_step(_EQUAL, _CLONE3, if_false=1), _refuse(errno.ENOSYS)]
    program += [
        _step(_EQUAL, _CLONE[machine], if_false=4),
        _step(_LOAD, _ARGUMENT_0),
        _step(_ANY_BIT, _CLONE_NEW_ANY, if_false=1),
        _refuse(errno.EPERM),
        _step(_RETURN, _ALLOW),
        _step(_EQUAL, _SOCKET[machine], if_false=3),
        _step(_LOAD, _ARGUMENT_0),
        _step(_EQUAL, _AF_UNIX, if_true=1),
        _refuse(errno.EACCES),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(program)
