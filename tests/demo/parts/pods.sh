# Pods: namespaces attached by the CNI binary, called as a runtime calls it.
# shellcheck shell=bash

# cni NODE VERB [POD]; the configuration is on stdin of the binary, with the result of ADD from then on.
cni() {
    local node=$1 verb=$2 pod=${3:-}
    local environment=(CNI_COMMAND="$verb" CNI_PATH="$bin")
    [ -z "$pod" ] || environment+=(CNI_CONTAINERID="$pod" CNI_NETNS="/run/netns/$run-$pod" CNI_IFNAME=eth0)
    network "$node" "$pod" | inside "$node" env "${environment[@]}" "$bin/millrace-cni"
}

network() {
    local node=$1 previous=$dir/$2.json
    [ -s "$previous" ] || previous=/dev/null
    jq --slurpfile previous "$previous" '{cniVersion, name} + .plugins[0]
        + if $previous == [] then {} else {prevResult: $previous[0]} end' "$dir/$node/10-millrace.conflist"
}

attach_pods() {
    local pod result
    for pod in "${pods[@]}"; do
        ip netns add "$run-$pod"
        ip -n "$run-$pod" link set lo up
        result=$(cni "${pod:0:1}" ADD "$pod") || fail "CNI ADD of pod $pod: $result"
        echo "$result" >"$dir/$pod.json"
        cni "${pod:0:1}" CHECK "$pod" >/dev/null || fail "CNI CHECK of pod $pod"
        say "pod $pod on node ${pod:0:1}  $(address "$pod" 4)  $(address "$pod" 6)  mtu $(mtu_of "$pod")"
    done
}

# Its address of a family: address a1 4
address() {
    jq -r --arg family "$2" '.ips[].address | select(contains(":") == ($family == "6")) | split("/")[0]' "$dir/$1.json"
}

mtu_of() {
    ip -j -n "$run-$1" link show eth0 | jq '.[0].mtu'
}
