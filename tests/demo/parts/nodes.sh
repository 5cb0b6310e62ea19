# Nodes: a namespace with an uplink, a dataplane, an agent.
# shellcheck shell=bash

# Runs a command in the namespace of a node or a pod: inside a1 ping ...
inside() {
    local where=$1
    shift
    ip netns exec "$run-$where" "$@"
}

# Asks the dataplane of a node: millrace a status
millrace() {
    local node=$1
    shift
    "$bin/millrace" --socket "$dir/$node/run/dataplane.sock" "$@"
}

make_nodes() {
    local mtu=$1 node number=0
    mkdir -p "$dir/logs"
    for node in "${nodes[@]}"; do
        ip netns add "$run-$node"
        mkdir -p "$dir/$node"/{run,lib,bpf}
        mount -t bpf "$run-$node" "$dir/$node/bpf"
        configure "$node"
    done
    ip link add eth0 mtu "$mtu" netns "$run-a" type veth peer name eth0 mtu "$mtu" netns "$run-b"
    for node in "${nodes[@]}"; do
        number=$((number + 1))
        ip -n "$run-$node" link set lo up
        ip -n "$run-$node" address add "192.0.2.$number/24" dev eth0
        ip -n "$run-$node" address add "2001:db8::$number/64" dev eth0 nodad
        ip -n "$run-$node" link set eth0 up
        say "node $node  namespace $run-$node  eth0 192.0.2.$number 2001:db8::$number  mtu $mtu"
    done
}

# The samples of deploy/, with the places of this run.
configure() {
    local node=$1 sample
    for sample in "node-$node.yaml" dataplane.yaml 10-millrace.conflist; do
        sed -e "s|/run/millrace|$dir/$node/run|" -e "s|/var/lib/millrace|$dir/$node/lib|" \
            -e "s|/var/log/millrace|$dir/logs|" -e "s|/sys/fs/bpf/millrace|$dir/$node/bpf|" \
            "$repository/deploy/standalone/$sample" >"$dir/$node/$sample"
    done
}

start_nodes() {
    local node
    for node in "${nodes[@]}"; do
        start "$node" dataplane "$bin/millrace-dataplane" --config "$dir/$node/dataplane.yaml"
        start "$node" agent "$bin/millrace-agent" --config "$dir/$node/node-$node.yaml"
    done
    for node in "${nodes[@]}"; do
        until_true 20 "node $node is ready (CNI STATUS)" cni "$node" STATUS
        until_true 10 "the uplink of node $node is up" port_is_up "$node" uplink
        until_true 10 "node $node knows its neighbours" knows_neighbours "$node"
        say "node $node  millrace0 $(ip -j -n "$run-$node" address show millrace0 | jq -r '[.[].addr_info[] | select(.scope == "global") | .local] | join(" ")')"
    done
}

# In a session of its own: an interrupt of the demo is not one of the node.
start() {
    local node=$1 name=$2
    shift 2
    setsid ip netns exec "$run-$node" "$@" </dev/null >>"$dir/logs/$node-$name.log" 2>&1 3>&- &
    echo $! >"$dir/$node/$name.pid"
}

port_is_up() {
    millrace "$1" -o json ports | jq -e --arg id "$2" 'any(.[]; .id == $id and .up)'
}

knows_neighbours() {
    millrace "$1" -o json status | jq -e 'all(.notes[]; contains("does not know") | not)'
}

# It works without a reserved huge page; what that costs is not hidden.
tell_pages() {
    local shortfall
    shortfall=$(millrace a -o json status | jq -r '[.regions[] | select(.shortfall != "" and (.name | startswith("frames"))) | .got] | unique | join(", ")')
    if [ -n "$shortfall" ]; then
        say "no huge page is reserved, or too few: packets lie on $shortfall pages"
    else
        say 'packets lie on reserved huge pages'
    fi
}
