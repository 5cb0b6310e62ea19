# Steps: they say what happens, and how it went wrong.
# shellcheck shell=bash

step_number=0
why=

if [ -t 1 ]; then
    bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
else
    bold='' dim='' plain=''
fi

step() {
    step_title=$1
    step_number=$((step_number + 1))
    printf '%s[%2d/%d] %s%s\n' "$bold" "$step_number" "$steps" "$1" "$plain"
}

say() {
    printf '        %s\n' "$*"
}

# Runs a command and shows it with what it says: show NAME COMMAND...
show() {
    local name=$1
    shift
    printf '      %s$ %s%s\n' "$dim" "$name" "$plain"
    "$@" 2>&1 | indent || fail "$name"
}

indent() {
    sed -e 's/^/        /' -e 's/ *$//'
}

# Waits until a command succeeds: until_true SECONDS WHAT COMMAND...
until_true() {
    local seconds=$1 what=$2 end
    shift 2
    end=$((${EPOCHREALTIME/./} + seconds * 1000000))
    until "$@" >/dev/null 2>&1; do
        [ "${EPOCHREALTIME/./}" -lt "$end" ] || fail "$what: not within $seconds s"
        sleep 0.05
    done
}

# The step has failed.
fail() {
    why=$*
    exit 1
}

# Nothing has begun.
die() {
    echo "demo: $*" >&2
    exit 1
}

unexpected() {
    why=${why:-"a command failed: $1"}
}

interrupted() {
    why=interrupted
    exit 130
}

# However a run ends: says how, keeps the logs where it failed, leaves nothing behind.
finish() {
    local status=$1
    trap - EXIT ERR
    trap '' INT TERM HUP
    set +e
    [ "$status" = 0 ] && return
    collect_evidence
    remove_by_force 2>>"$dir/logs/evidence"
    echo "demo: step $step_number ($step_title) failed: ${why:-status $status}; logs: $dir/logs" >&3
    exit "$status"
}

check_tools() {
    local tool
    for tool in ip ping iperf3 jq ss; do
        command -v "$tool" >/dev/null || die "$tool is missing: try make demo, which installs it"
    done
    for tool in millrace millrace-agent millrace-cni millrace-dataplane; do
        [ -x "$bin/$tool" ] || die "$bin/$tool is missing: try make demo, which builds it"
    done
}
