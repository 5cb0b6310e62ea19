# Removal: in good order, by force, and later.
# shellcheck shell=bash

readonly patience=10 # seconds that a process may take to end

# As a runtime and a package would: every DEL, every process, then what a dataplane has left on its host.
remove_all() {
    local pod node
    for pod in "${pods[@]}"; do
        cni "${pod:0:1}" DEL "$pod" || fail "CNI DEL of pod $pod"
        ! inside "$pod" ip link show eth0 >/dev/null 2>&1 || fail "pod $pod still has eth0 after DEL"
        ip netns del "$run-$pod"
    done
    say "pods detached: ${pods[*]}"
    for node in "${nodes[@]}"; do
        millrace "$node" -o json ports | jq -e 'all(.[]; .role != "pod")' >/dev/null || fail "node $node still has a pod's port"
        stop "$node" agent
        stop "$node" dataplane
        inside "$node" "$bin/millrace-dataplane" --config "$dir/$node/dataplane.yaml" uninstall >>"$dir/logs/$node-uninstall.log" 2>&1 ||
            fail "millrace-dataplane uninstall on node $node: $(tail -n 1 "$dir/logs/$node-uninstall.log")"
    done
    say 'agents and dataplanes ended, dataplanes uninstalled'
    for node in "${nodes[@]}"; do check_host "$node"; done
    for node in "${nodes[@]}"; do
        umount "$dir/$node/bpf"
        ip netns del "$run-$node"
    done
    rm -rf "${dir:?}"
    rmdir --ignore-fail-on-non-empty "$runs"
    check_nothing_left
    say 'no process, interface, XDP program, pin, mount or namespace is left'
}

# Ends a process of ours in good order: stop NODE NAME
stop() {
    local node=$1 name=$2 pid
    pid=$(cat "$dir/$node/$name.pid")
    kill "$pid" || fail "the $name of node $node had ended before: $(tail -n 1 "$dir/logs/$node-$name.log")"
    until_true "$patience" "the $name of node $node ends" ended "$pid"
    wait "$pid" || fail "the $name of node $node ended with an error: $(tail -n 1 "$dir/logs/$node-$name.log")"
}

ended() {
    ! [ -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status"
}

# What a node's host has while no dataplane runs: nothing of ours.
check_host() {
    local node=$1 left
    left=$(ip -j -n "$run-$node" link show | jq -r '.[] | select(.ifname != "lo" and .ifname != "eth0") | .ifname')
    [ -z "$left" ] || fail "interfaces left on node $node: $left"
    left=$(ip -j -n "$run-$node" link show eth0 | jq -r '.[0].xdp // empty')
    [ -z "$left" ] || fail "eth0 of node $node still has an XDP program"
    left=$(find "$dir/$node/bpf" -mindepth 1 ! -name '*.debug') # two files that every bpf file system has
    [ -z "$left" ] || fail "pins left on node $node: $left"
    left=$(ip netns pids "$run-$node")
    [ -z "$left" ] || fail "processes left on node $node: $left"
}

check_nothing_left() {
    local left
    left=$(ip netns list | grep -E "^$run-" || true)
    [ -z "$left" ] || fail "namespaces left: $left"
    left=$(processes)
    [ -z "$left" ] || fail "processes left: $left"
    ! grep -q " $dir/" /proc/mounts || fail "mounts left below $dir"
}

# Every process that was started with a path of this run.
processes() {
    local process
    for process in /proc/[0-9]*; do
        if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -qE "millrace-(dataplane|agent) .*$dir/"; then
            echo "${process#/proc/}"
        fi
    done
}

# What may tell why a step failed, into the logs.
collect_evidence() {
    local node
    mkdir -p "$dir/logs"
    for node in "${nodes[@]}"; do
        for what in status ports counters flows; do timeout 3 "$bin/millrace" --socket "$dir/$node/run/dataplane.sock" "$what"; done
        ip -n "$run-$node" -s -d link show
        ip -n "$run-$node" route show table all
        ip -n "$run-$node" neighbour show
    done >"$dir/logs/evidence" 2>&1
    cat "$dir"/??.json >"$dir/logs/pods.json" 2>/dev/null
}

# Whatever state it is in; the logs stay.
remove_by_force() {
    local space
    kill -9 $(jobs -p) $(processes) 2>/dev/null
    wait 2>/dev/null
    # Worker processes end with their keepers.
    until [ -z "$(processes)" ]; do sleep 0.05; done
    for space in $(ip netns list | grep -oE "^$run-[a-z0-9]+"); do
        kill -9 $(ip netns pids "$space") 2>/dev/null
        ip netns del "$space"
    done
    # What is pinned ends with its file system.
    for space in "$dir"/*/bpf; do umount "$space" 2>/dev/null; done
    find "$dir" -mindepth 1 -maxdepth 1 ! -name logs -exec rm -rf {} +
}

# What to try with nodes that stay up.
hint() {
    touch "$dir/left"
    say "ip netns exec $run-a1 ping $(address b1 4)"
    say "ip netns exec $run-b1 iperf3 -s &  ip netns exec $run-a1 iperf3 -c $(address b1 4)"
    say "$bin/millrace --socket $dir/a/run/dataplane.sock status   # or ports, flows, counters, trace"
    say "logs: $dir/logs"
    say "to remove them: sudo tests/demo/run down"
}

take_down() {
    local found=0
    set +e
    for dir in "$runs"/mr-*; do
        run=${dir##*/}
        # One that still goes on is left alone.
        [ -d "$dir" ] && { [ -e "$dir/left" ] || ! [ -e "/proc/${run#mr-}" ]; } || continue
        found=$((found + 1))
        remove_by_force
        rm -rf "${dir:?}"
        echo "demo: $run is removed"
    done
    rmdir --ignore-fail-on-non-empty "$runs" 2>/dev/null
    [ "$found" != 0 ] || echo 'demo: nothing is up'
}
