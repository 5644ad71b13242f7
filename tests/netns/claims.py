"""Has each frame that leaves by eth0 say by its tc_index what the first argument is, and by its mark what the
second is, until it is killed.

What a guest in a network namespace may do with its own card.
"""

import ctypes
import os
import platform
import socket
import struct
import sys
import time

PROG_LOAD, LINK_CREATE = 5, 28
SCHED_CLS, TCX_EGRESS = 3, 47
SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
# Of struct __sk_buff.
MARK, TC_INDEX = 8, 44
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"))
    result = libc.syscall(SYS_BPF, command, buffer, len(buffer))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def instruction(code, registers, offset, immediate):
    return struct.pack("<BBhi", code, registers, offset, immediate)


code = b"".join(
    [
        instruction(0xB7, 0x02, 0, int(sys.argv[1], 0)),  # r2 = the number
        instruction(0x63, 0x21, TC_INDEX, 0),  # r1->tc_index = r2
        instruction(0xB7, 0x02, 0, int(sys.argv[2], 0)),  # r2 = the mark
        instruction(0x63, 0x21, MARK, 0),  # r1->mark = r2
        instruction(0xB7, 0x00, 0, -1),  # r0 = TC_ACT_UNSPEC
        instruction(0x95, 0x00, 0, 0),  # exit
    ]
)
instructions = ctypes.create_string_buffer(code)
gpl = ctypes.create_string_buffer(b"GPL")
program = bpf(PROG_LOAD, struct.pack("<IIQQ", SCHED_CLS, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(gpl)))
link = bpf(LINK_CREATE, struct.pack("<IIII", program, socket.if_nametoindex("eth0"), TCX_EGRESS, 0))
print("ready", flush=True)
while True:
    time.sleep(60)
