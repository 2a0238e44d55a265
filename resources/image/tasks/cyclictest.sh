# cyclictest on one CPU; what it found is between marks, as JSON.
#
#   godwit.cpu=N        the CPU that it measures (the last one)
#   godwit.loops=N      how often it sleeps (2000)
#   godwit.interval=US  for how long, in microseconds (10000)
#   godwit.longest=US   what is longer has no place of its own in the histogram (100000)
command -v cyclictest >/dev/null || { echo "godwit: error no cyclictest in this image"; return 1; }
last=0
while [ -e "/sys/devices/system/cpu/cpu$((last + 1))" ]; do last=$((last + 1)); done

measure() {
    cyclictest --mlockall --quiet --priority=95 --threads=1 --affinity="${GODWIT_CPU:-$last}" \
        --loops="${GODWIT_LOOPS:-2000}" --interval="${GODWIT_INTERVAL:-10000}" \
        --histogram="${GODWIT_LONGEST:-100000}" --json=/run/cyclictest.json >/run/cyclictest.log 2>&1
    status=$?
    # On a serial port, each blank takes its time.
    if [ "$status" = 0 ]; then tr -d ' \n' </run/cyclictest.json; else cat /run/cyclictest.log; fi
    echo
    return $status
}
section kernel uname -v
section isolated cat /sys/devices/system/cpu/isolated
section tickless cat /sys/devices/system/cpu/nohz_full
echo "godwit: ready cyclictest"
section cyclictest measure
serve
