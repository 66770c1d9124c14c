#!/bin/busybox sh
# The first process of the test machine. Its first argument says what has to happen on this kernel.
export PATH=/bin HOME=/ EGRESS_WARDEN_BIN=/bin/egress-warden

# What is in /bin already stays.
/bin/busybox --install -s /bin

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*; do
    insmod "$module" || echo "cannot load $module"
done
ip link set lo up

xtask vm --guest "$1"
echo "the cases ended with $?"
poweroff -f
