# dpdk-testpmd on every virtio network function.
#
#   godwit.forward=MODE  macswap (default), mac, io, rxonly, txonly, ...
#   godwit.pairs=N       queue pairs (1)
#   godwit.pages=N       huge pages of 2 MiB in the guest (64)
#   godwit.lcores=LIST   lcores and their CPUs ('0@0,1@0' on one CPU, '0@0,1@1' on more)
mkdir -p /var/run
echo "${GODWIT_PAGES:-64}" >/proc/sys/vm/nr_hugepages
load uio_pci_generic || return 1
load virtio_pci || return 1
allow=
for address in $(functions 0x1000 0x1041); do
    bind uio_pci_generic "$address" || { echo "godwit: error cannot bind $address"; return 1; }
    allow="$allow -a $address"
done
[ -n "$allow" ] || { echo "godwit: error no virtio network function"; return 1; }

pairs=${GODWIT_PAIRS:-1}
if [ -e /sys/devices/system/cpu/cpu1 ]; then lcores=0@0,1@1; else lcores=0@0,1@0; fi
drivers=
for driver in /usr/lib/dpdk/*.so; do drivers="$drivers -d $driver"; done
mkfifo /run/testpmd.in
# Both ways, so that testpmd never sees the end of its input.
exec 3<>/run/testpmd.in
# shellcheck disable=SC2086
stdbuf -oL dpdk-testpmd $drivers $allow --lcores "${GODWIT_LCORES:-$lcores}" -m 96 --no-telemetry -- \
    --forward-mode="${GODWIT_FORWARD:-macswap}" --total-num-mbufs=2048 --rxq="$pairs" --txq="$pairs" \
    --nb-cores=1 </run/testpmd.in >/run/testpmd.log 2>&1 &
testpmd=$!

ready() {
    grep -q 'Press enter to exit' /run/testpmd.log || ! kill -0 "$testpmd" 2>/dev/null
}
wait_for 120 ready
if kill -0 "$testpmd" 2>/dev/null && grep -q 'Press enter to exit' /run/testpmd.log; then
    echo "godwit: ready testpmd"
    serve
    echo >&3
    wait "$testpmd"
    status=$?
else
    status=1
fi
section testpmd cat /run/testpmd.log
return $status
