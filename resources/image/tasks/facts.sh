# What the guest sees of its machine, each in a marked section.
load virtio_pci
load virtio_net
load virtio_blk
load virtio_rng
if [ -e /sys/class/net/eth0 ]; then
    [ -z "$GODWIT_PAIRS" ] || ethtool -L eth0 combined "$GODWIT_PAIRS"
    ip link set eth0 up
fi
numa() {
    for node in /sys/devices/system/node/node*; do
        echo "${node##*/} cpus $(cat "$node/cpulist")"
        echo "${node##*/} distance $(cat "$node/distance")"
        grep -E 'MemTotal' "$node/meminfo"
    done
}
section cmdline cat /proc/cmdline
section lscpu lscpu
section lscpu-extended lscpu --extended
section lspci lspci -nnvv
section interrupts cat /proc/interrupts
section memory cat /proc/meminfo
section numa numa
section block lsblk -b -o NAME,SIZE,RO,PHY-SEC,DISC-MAX
[ -e /sys/class/net/eth0 ] && section link ip link show eth0
[ -e /sys/class/net/eth0 ] && section offloads ethtool -k eth0
[ -e /sys/class/net/eth0 ] && section channels ethtool -l eth0
section rng sh -c 'cat /sys/class/misc/hw_random/rng_current; head -c 16 /dev/hwrng | wc -c'
section clock cat /sys/devices/system/clocksource/clocksource0/current_clocksource
