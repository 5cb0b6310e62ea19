# Traffic: pings and TCP.
# shellcheck shell=bash

# Both families: ping_pod FROM TO
ping_pod() {
    ping_one "$1" "$2" "$(address "$2" 4)"
    ping_one "$1" "$2" "$(address "$2" 6)"
}

# ping_one FROM TO ADDRESS [OPTION...]
ping_one() {
    local from=$1 to=$2 address=$3 said
    shift 3
    if ! said=$(inside "$from" ping -n -c 5 -i 0.05 -W 2 "$@" "$address" 2>&1) || ! grep -q ' 0% packet loss' <<<"$said"; then
        fail "ping from $from to $to ($address) $*: $(tail -n 3 <<<"$said" | tr '\n' ' ')"
    fi
    say "$(printf '%-3s -> %-4s %-16s %s  rtt min/avg/max %s' "$from" "$to" "$address" \
        "$(sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\2 of \1 answered/p' <<<"$said")" \
        "$(sed -nE 's|^rtt .* = ([^/]*/[^/]*/[^/]*)/.*|\1 ms|p' <<<"$said")") ${*:+($*)}"
}

# Small, as long as fits, and longer: those are cut and put together again.
ping_across() {
    local inner=$(($1 - 50)) pod=b1
    ping_pod a1 "$pod"
    ping_pod b2 a2
    ping_one a1 "$pod" "$(address "$pod" 4)" -M do -s $((inner - 28))
    ping_one a1 "$pod" "$(address "$pod" 6)" -M do -s $((inner - 48))
    ping_one a1 "$pod" "$(address "$pod" 4)" -s $((2 * inner))
    ping_one a1 "$pod" "$(address "$pod" 6)" -s $((2 * inner))
}

ping_hosts() {
    ping_pod a a1
    ping_pod a b1
    ping_one a1 a 192.0.2.1
    ping_one a1 a 2001:db8::1
    ping_one a1 b 192.0.2.2
    ping_one a1 b 2001:db8::2
}

# Both families: measure_tcp FROM TO
measure_tcp() {
    local family
    for family in 4 6; do tcp_one "$1" "$2" "$(address "$2" "$family")"; done
}

tcp_one() {
    local from=$1 to=$2 address=$3 server result=$dir/logs/iperf3-$step_number-$1-$2.json said
    inside "$to" iperf3 -s -1 >"$dir/logs/iperf3-server.log" 2>&1 &
    server=$!
    until_true 5 "iperf3 listens in $to" listens "$to" 5201
    inside "$from" timeout 30 iperf3 -c "$address" -t 3 -J >"$result" ||
        fail "iperf3 from $from to $to ($address): $(jq -r '.error // "no answer"' "$result" || true)"
    wait "$server" || fail "iperf3 in $to failed"
    said=$(jq -r '.end | "\(.sum_received.bits_per_second / 1e7 | round / 100) Gbit/s  \(.sum_sent.retransmits) retransmits"' "$result")
    jq -e '.end.sum_received.bytes > 1e6' "$result" >/dev/null || fail "TCP from $from to $to carries nothing: $said"
    say "$(printf '%-3s -> %-4s %-16s %s' "$from" "$to" "$address" "$said")"
}

listens() {
    inside "$1" ss -Hltn "sport = :$2" | grep -q .
}
