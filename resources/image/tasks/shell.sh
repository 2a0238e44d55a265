# A shell on the console.
load virtio_pci
load virtio_net
load virtio_blk
load virtio_rng
cd /root || return 1
setsid cttyhack sh -l
