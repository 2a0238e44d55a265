# Waits for the power button: the kernel's driver makes an input device of it, and one press is an
# event there. Init turns the machine off afterwards.
load button || return 1
load evdev || return 1
button() {
    for name in /sys/class/input/event*/device/name; do
        if grep -q '^Power Button' "$name" 2>/dev/null; then
            event=${name#/sys/class/input/}
            event=/dev/input/${event%%/*}
            [ -e "$event" ] && return 0
        fi
    done
    return 1
}
wait_for 10 button || { echo "godwit: error no power button"; return 1; }
# One struct input_event of 24 bytes; read(2) on the device waits for it.
{
    echo "godwit: ready button"
    dd bs=24 count=1 of=/run/pressed 2>/dev/null
} <"$event"
echo "godwit: pressed $(od -A n -t u2 -j 16 -N 4 /run/pressed)"
