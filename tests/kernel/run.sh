#!/bin/sh
# Boots a stock Debian kernel in QEMU, with this machine's root over 9p, and runs the BLE drivers
# there against the real bluetoothd and bumble's controllers, phone, fob and lock. Needs root.
#   tests/kernel/run.sh PYTHON
set -eu

python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
work=${KERNEL_STAGE_DIR:-$top/build/kernel}
mkdir -p "$work/initramfs" "$work/site"
cd "$work"

need=""
command -v qemu-system-x86_64 >/dev/null || need="$need qemu-system-x86"
[ -x /usr/sbin/bluetoothd ] || need="$need bluez"
command -v dbus-daemon >/dev/null || need="$need dbus"
command -v modprobe >/dev/null || need="$need kmod"
command -v cpio >/dev/null || need="$need cpio"
if [ -n "$need" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null
    # shellcheck disable=SC2086  # a list of words on purpose
    apt-get install -q -y --no-install-recommends $need >/dev/null
fi
if [ ! -d kernel ]; then
    # Taken apart, not installed: this machine boots what it always did.
    image=$(apt-cache depends linux-image-amd64 | awk '/Depends:/ { print $2 }')
    apt-get download "$image" 2>/dev/null
    dpkg -x "$image"_*.deb kernel
    depmod -b "$work/kernel" "$(ls kernel/lib/modules)"
fi
[ -d site/bumble ] || "$python" -m pip install -q --no-deps --require-hashes --only-binary=:all: \
    --target site -r "$here/requirements.lock"

release=$(ls kernel/lib/modules)
rm -rf initramfs && mkdir initramfs
cc -static -O1 -o initramfs/init "$here/init.c"
modprobe -d "$work/kernel" -S "$release" -a --show-depends virtio_pci 9pnet_virtio 9p |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >modules
: >initramfs/modules
while read -r module; do
    cp "$module" initramfs/
    echo "/$(basename "$module")" >>initramfs/modules
done <modules
echo "STAGE_TAPS=${STAGE_TAPS:-10} PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$top:$work/site STAGE_MODULES=$work/kernel STAGE_RELEASE=$release exec $python -m tests.kernel.guest" >initramfs/command
(cd initramfs && find . | cpio -o -H newc --quiet) | gzip -1 >initramfs.gz

timeout "${KERNEL_STAGE_S_MAX:-300}" \
    qemu-system-x86_64 -machine q35,accel=tcg -cpu max -m 1024 -smp 2 \
    -nographic -no-reboot -nodefaults -serial stdio \
    -kernel "kernel/boot/vmlinuz-$release" -initrd initramfs.gz \
    -append "console=ttyS0 quiet panic=-1 loglevel=3" \
    -fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap" \
    -device virtio-9p-pci,fsdev=root,mount_tag=root </dev/null | tr -d '\r' | tee "$work/console.log"
grep -q "^guest exits with 0" "$work/console.log"
