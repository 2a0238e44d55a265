# Drivers of every device that may come, and commands from the console.
load virtio_pci || return 1
load virtio_net || return 1
load virtio_blk || return 1
load virtio_rng
echo "godwit: ready serve"
serve
