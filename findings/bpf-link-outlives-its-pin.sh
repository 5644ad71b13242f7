#!/usr/bin/env bash
# Linux 6.18: removing the pin of a BPF link, its last reference, returns before the program is off its
# device. The link goes with the pin's inode, after an RCU grace period and by a worker; until then the same
# program is not attached there again: EEXIST from TCX, EBUSY from XDP. How long that is differs, so that of a
# hundred attempts at once some are refused. After BPF_LINK_DETACH the device is free at once.
#
# Talks to bpf(2) from Python's standard library, in a network namespace and a bpf file system of its own.
# Needs root, python3, unshare, and TCX (Linux 6.6).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/links.py" <<'PYTHON'
import ctypes, errno, os, platform, struct, sys, time

PROG_LOAD, OBJ_PIN, LINK_CREATE, LINK_DETACH = 5, 6, 28, 34
SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes.ljust(128, b"\0"))
    result = libc.syscall(SYS_BPF, command, buffer, len(buffer))
    if result < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return result


def program(kind):
    code = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)  # r0 = 2; exit
    instructions = ctypes.create_string_buffer(code)
    license = ctypes.create_string_buffer(b"GPL\0")
    return bpf(PROG_LOAD, struct.pack("<IIQQ", kind, 2, ctypes.addressof(instructions), ctypes.addressof(license)))


def attach(prog, hook):
    return bpf(LINK_CREATE, struct.pack("<IIII", prog, 1, hook, 0))  # 1 is lo


def pin(link, name):
    path = ctypes.create_string_buffer(name.encode() + b"\0")
    bpf(OBJ_PIN, struct.pack("<QII", ctypes.addressof(path), link, 0))
    os.close(link)


def again(prog, hook):
    try:
        os.close(attach(prog, hook))
        return "attached"
    except OSError as error:
        return errno.errorcode[error.errno]


def attached(prog, hook):
    while True:  # until the last one's link has gone
        try:
            return attach(prog, hook)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EBUSY):
                raise
            time.sleep(0.01)


for name, kind, hook in ("TCX", 3, 46), ("XDP", 6, 37):
    prog, path = program(kind), f"{sys.argv[1]}/{name}"
    for what, detach in ("the pin removed", False), ("detached, the pin removed", True):
        answers = set()
        for _ in range(100):
            link = attached(prog, hook)
            held = os.dup(link) if detach else None
            pin(link, path)
            if detach:
                bpf(LINK_DETACH, struct.pack("<I", held))
            os.unlink(path)
            answers.add(again(prog, hook))
            if detach:
                os.close(held)
        print(f"{name}, {what}: {', '.join(sorted(answers - {'attached'})) or 'attached'}")
PYTHON
mkdir "$dir/bpf"
seen=$(unshare --net --mount bash -c \
    'mount -t bpf bpf "$0/bpf" && ip link set lo up && exec python3 "$0/links.py" "$0/bpf"' "$dir")
expected="TCX, the pin removed: EEXIST
TCX, detached, the pin removed: attached
XDP, the pin removed: EBUSY
XDP, detached, the pin removed: attached"
uname -r
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
