# A crash: the worker process dies, the keeper starts it again.
# shellcheck shell=bash

kill_worker() {
    local old began back carriers pinging log=$dir/logs/ping-crash
    old=$(worker a)
    carriers=$(carrier_changes a1)
    inside a1 ping -n -D -c 100 -i 0.05 "$(address b1 4)" >"$log" &
    pinging=$!
    until_true 5 'pings are answered' grep -q 'icmp_seq=10 ' "$log"
    kill -9 "$old"
    began=${EPOCHREALTIME/./}
    say "kill -9 $old: the worker process of node a"
    until_true 10 'the keeper has started another worker process' other_worker a "$old"
    back=${EPOCHREALTIME/./}
    wait "$pinging" || true
    say "worker process $(worker a) of keeper $(cat "$dir/a/dataplane.pid") answers $(((back - began) / 1000)) ms later"
    say "$(grep transmitted "$log"); $(longest_gap "$log")"
    grep -q 'icmp_seq=100 ' "$log" || fail 'pings are not answered after the worker process came back'
    [ "$(carrier_changes a1)" = "$carriers" ] || fail 'pod a1 lost its carrier'
    say "pod a1 kept its carrier ($carriers changes before and after)"
}

worker() {
    millrace "$1" -o json status | jq .pid
}

other_worker() {
    millrace "$1" -o json status | jq -e --argjson old "$2" '.pid != $old and all(.ports[]; .up)'
}

carrier_changes() {
    inside "$1" cat /sys/class/net/eth0/carrier_changes
}

# From the times in front of ping's lines.
longest_gap() {
    sed -n 's/^\[\([0-9.]*\)\].* bytes from .*/\1/p' "$1" | awk '
        NR > 1 && $1 - last > gap { gap = $1 - last }
        { last = $1 }
        END { printf "longest time without an answer %d ms", gap * 1000 }'
}
