#!/bin/sh
# Trigger a deployment, wait for its end, and exit 0 only when the run is Completed.
#
#   run_and_expect.sh DEPLOYMENT [PARAMETERS]      PARAMETERS: JSON; what it lacks is as the deployment has it
#   run_and_expect.sh sparse_to_dense/small-world '{"seeds": [0, 1], "expect": {"full > direct_grpo": "holds"}}'
#
# PREFECT_API_URL   the server; PREFECT_API_AUTH_STRING where it asks for a password
# WATCH_TIMEOUT     seconds after which the run is cancelled (default: 3600)
# PYTHON            a Python that has Prefect (default: python3)
#
# Exit: 0 completed; 1 failed, crashed, cancelled or found what was not expected; 2 not started; 124 timed out;
# 130 interrupted. The run is cancelled in the last two cases: no child of this script, it would go on.
set -eu

deployment=${1:?give a deployment, for example sparse_to_dense/small-world}
parameters=${2:-"{}"}
python=${PYTHON:-python3}
log=$(mktemp)
watching=
showing=
trap 'kill $watching $showing 2>/dev/null || true; rm -f "$log"' EXIT

prefect() { "$python" -m prefect --no-prompt "$@"; }

run_id() { sed -n 's/.*UUID: *\([0-9a-f-]\{36\}\).*/\1/p' "$log" | head -n 1; }

# TYPE: MESSAGE of the state that the run is in
state() {
    prefect flow-run inspect "$1" --output json | "$python" -c \
        'import json, sys; state = json.load(sys.stdin)["state"]; print(state["type"] + ":", state["message"] or "")'
}

cancel() {
    trap '' INT TERM
    run=$(run_id)
    [ -z "$run" ] || prefect flow-run cancel "$run" || true
    exit "$1"
}
trap 'cancel 130' INT TERM

tail -f "$log" &
showing=$!
"$python" -m prefect --no-prompt deployment run "$deployment" --params "$parameters" \
    --watch --watch-timeout "${WATCH_TIMEOUT:-3600}" >"$log" 2>&1 &
watching=$!
wait "$watching" || true # the state says how the run ended, and whether it has
sleep 1                  # until the last lines are shown

run=$(run_id)
[ -n "$run" ] || exit 2 # refused: the log says why
ended=$(state "$run")
echo "run $run: $ended"
case $ended in
COMPLETED:*) exit 0 ;;
FAILED:* | CRASHED:* | CANCELLED:* | CANCELLING:*) exit 1 ;;
*)
    echo "not ended within ${WATCH_TIMEOUT:-3600} s: cancelling it" >&2
    cancel 124
    ;;
esac
