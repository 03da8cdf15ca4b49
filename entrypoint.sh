#!/bin/sh
# What an image runs: the daemon and, through it, the command that is given as arguments.
#
#   entrypoint.sh                 only the daemon
#   entrypoint.sh npm start       and then `npm start` as the process named "app", whose status
#                                 and logs are read over HTTP
#
# SANDBOX_API_BIN      the daemon; default: sandbox-api from the PATH
# SANDBOX_API_PORT     where it listens; default: 8080
# SANDBOX_API_TOKEN    when set, the daemon asks for it, and so it is sent here
# SANDBOX_APP_NAME     the name of the command's process; default: app
set -eu

port=${SANDBOX_API_PORT:-8080}
base=http://127.0.0.1:$port
deadline_s=30
daemon=

fail() {
    echo "entrypoint: $*" >&2
    kill -TERM "$daemon" 2>/dev/null || :
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_up() {
    if have curl; then
        curl -fs -o /dev/null "$base/health"
    elif have nc; then
        nc -z 127.0.0.1 "$port" 2>/dev/null
    elif have bash; then
        bash -c ": </dev/tcp/127.0.0.1/$port" 2>/dev/null
    fi # with none of them nobody here could use the port either
}

wait_until_up() {
    end=$(($(date +%s) + deadline_s))
    until is_up; do
        kill -0 "$daemon" 2>/dev/null || fail "the daemon ended before it was up"
        [ "$(date +%s)" -lt "$end" ] || fail "the daemon is not up after $deadline_s s"
        sleep 0.1 2>/dev/null || sleep 1
    done
}

# The arguments as one shell command line: 'npm' 'start'
quote() {
    for argument; do
        printf "'%s' " "$(printf %s "$argument" | sed "s/'/'\\\\''/g")"
    done
}

# The standard input as the inside of a JSON string.
json_escape() {
    sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/	/\\t/g' |
        sed -e ':a' -e '$!{' -e 'N' -e 'ba' -e '}' -e 's/\n/\\n/g'
}

start_app() {
    have curl || fail "curl is needed to start a command"
    name=$(printf '%s\n' "${SANDBOX_APP_NAME:-app}" | json_escape)
    command=$(quote "$@" | json_escape)
    # The token goes through a pipe: arguments can be seen by every process.
    reply=$(printf %s "${SANDBOX_API_TOKEN:+Authorization: Bearer $SANDBOX_API_TOKEN}" |
        curl -sS -X POST "$base/process" -H @- -w '\n%{http_code}' \
            -d "{\"name\": \"$name\", \"command\": \"$command\"}") || fail "no answer from the daemon"
    case $reply in
    *200) ;;
    *) fail "could not start $*: $reply" ;;
    esac
}

# A signal ends the daemon, and the daemon's end is ours; `wait` returns early on a signal.
trap 'kill -TERM "$daemon" 2>/dev/null || :' TERM INT

"${SANDBOX_API_BIN:-sandbox-api}" -p "$port" &
daemon=$!
wait_until_up
[ $# -eq 0 ] || start_app "$@"

while :; do
    wait "$daemon" && status=0 || status=$?
    kill -0 "$daemon" 2>/dev/null || exit "$status"
done
