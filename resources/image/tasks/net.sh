# The kernel's own virtio_net driver, with an iperf3 server.
#
#   godwit.ip=ADDRESS/BITS  address of the first interface (192.168.77.2/24)
#   godwit.mtu=N            its MTU, when not the device's own
#   godwit.pairs=N          queue pairs to switch on
load virtio_pci || return 1
load virtio_net || return 1
load virtio_rng
wait_for 10 test -e /sys/class/net/eth0 || { echo "godwit: error no eth0"; return 1; }
[ -z "$GODWIT_MTU" ] || ip link set eth0 mtu "$GODWIT_MTU"
[ -z "$GODWIT_PAIRS" ] || ethtool -L eth0 combined "$GODWIT_PAIRS"
ip addr add "${GODWIT_IP:-192.168.77.2/24}" dev eth0
ip link set eth0 up
iperf3 --server --daemon
echo "godwit: ready net"
serve
