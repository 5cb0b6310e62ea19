# Looking: traces and flows.
# shellcheck shell=bash

# Follows pings, and shows one that both nodes have seen.
trace_across() {
    local to sequence children
    to=$(address b1 4)
    # Not by functions: those would run in shells of their own, and what is ended below would be the shells.
    "$bin/millrace" --socket "$dir/a/run/dataplane.sock" trace --on pod/a1/eth0 --protocol icmp --count 100 >"$dir/logs/trace-a" &
    children=($!)
    "$bin/millrace" --socket "$dir/b/run/dataplane.sock" trace --on uplink --protocol udp --count 100 >"$dir/logs/trace-b" &
    children+=($!)
    ip netns exec "$run-a1" ping -n -q -c 100 -i 0.05 "$to" >/dev/null &
    children+=($!)
    until_true 10 'both nodes trace one packet' seen_by_both
    sequence=$(seen_by_both)
    kill "${children[@]}" 2>/dev/null || true # those that have not ended
    wait "${children[@]}" || true
    show 'millrace trace --on pod/a1/eth0   # on node a' packet "$sequence" "$dir/logs/trace-a"
    show 'millrace trace --on uplink   # on node b' packet "$sequence" "$dir/logs/trace-b"
}

# The sequence number of the first echo request whose way through both nodes is complete: something follows it in both.
seen_by_both() {
    local sequences
    sequences=$(comm -12 <(requests "$dir/logs/trace-a") <(requests "$dir/logs/trace-b") | sort -n)
    [ "$(wc -w <<<"$sequences")" -ge 2 ] && head -n 1 <<<"$sequences"
}

requests() {
    sed -n 's/.*echo request, id [0-9]*, seq \([0-9]*\),.*/\1/p' "$1" | sort -u
}

# The steps of the packet that has this sequence number.
packet() {
    awk -v wanted="echo request, id [0-9]+, seq $1," '
        /^packet / { if (ours) exit; steps = ""; }
        { steps = steps $0 "\n"; if ($0 ~ wanted) ours = 1 }
        END { if (!ours) exit 1; printf "%s", steps }' "$2"
}

show_flows() {
    local of
    show "millrace flows   # on node a" millrace a flows --limit 12
    of=$(millrace a -o json flows --limit 0 | jq '[.[] | select(.protocol == 6 and .verdict == "forward")] | length')
    [ "$of" -gt 0 ] || fail 'node a knows no flow of TCP'
    show "millrace counters   # on node a" millrace a counters
}
