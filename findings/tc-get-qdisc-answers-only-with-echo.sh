#!/usr/bin/env bash
# Linux (seen on 6.18): RTM_GETQDISC for one qdisc succeeds and answers nothing.
#
# A request for one link, address or filter is answered to the asker. The one for a qdisc
# (qdisc_get_notify) is sent to all who listen to RTNLGRP_TC, and to the asker with NLM_F_ECHO alone: without
# that the acknowledgement says success and the qdisc never comes, so "none" and "there is one" differ by
# the error code only (ENOENT).
#
# Runs in a network namespace of its own. Needs root (unshare), tc, python3.
set -euo pipefail
seen=$(unshare --net bash -c '
    tc qdisc add dev lo clsact
    python3 - <<PYTHON
import socket, struct
GETQDISC, NEWQDISC, ERROR = 38, 36, 2
REQUEST, ACK, ECHO = 1, 4, 8

def ask(what, flags, parent):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        body = struct.pack("=BxxxiIII", 0, 1, 0, parent, 0)
        s.send(struct.pack("=IHHII", 16 + len(body), GETQDISC, flags, 1, 0) + body)
        answers = 0
        while True:
            data = s.recv(65536)
            kind, = struct.unpack_from("=H", data, 4)
            answers += kind == NEWQDISC
            if kind == ERROR:
                code, = struct.unpack_from("=i", data, 16)
                print(f"{what}: {answers} answers, error {-code}")
                return

CLSACT = 0xfffffff1
ask("plain", REQUEST | ACK, CLSACT)
ask("with NLM_F_ECHO", REQUEST | ACK | ECHO, CLSACT)
PYTHON
    tc qdisc del dev lo clsact')
expected="plain: 0 answers, error 0
with NLM_F_ECHO: 1 answers, error 0"
uname -r
echo "$seen"
[ "$seen" = "$expected" ] || { echo "changed; expected:"; echo "$expected"; exit 1; }
