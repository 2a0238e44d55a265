# The first disk: says what the host wrote at its start, writes a pattern and reads it back.
load virtio_pci || return 1
load virtio_blk || return 1
wait_for 10 test -e /dev/vda || { echo "godwit: error no disk"; return 1; }
echo "godwit: disk start $(head -c 16 /dev/vda | tr -d '\0')"
yes "${GODWIT_PATTERN:-written-by-the-guest}" | head -c 1048576 >/run/pattern
if ! dd if=/run/pattern of=/dev/vda bs=64k seek=16 conv=fsync 2>/run/dd.log; then
    echo "godwit: disk refused $(tail -n 1 /run/dd.log)"
    return 2
fi
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/vda of=/run/back bs=64k skip=16 count=16 2>/dev/null
cmp /run/pattern /run/back || return 3
echo "godwit: disk written 1048576 at 1048576"
