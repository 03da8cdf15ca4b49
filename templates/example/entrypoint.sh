#!/bin/sh
# Starts the daemon, waits for its port, starts the app through it, and lives as long as the daemon.
set -eu

sandbox-api &
daemon=$!
trap 'kill -TERM "$daemon"' TERM INT

until curl -fs -o /dev/null http://127.0.0.1:8080/health; do
    kill -0 "$daemon" # ends the script when the daemon is gone
    sleep 0.1
done

# From here on the app is the process "app": GET /process/app, /process/app/logs, ...
curl -fsS -o /dev/null http://127.0.0.1:8080/process \
    -d '{"name": "app", "command": "node server.js", "workingDir": "/app"}'

while :; do
    wait "$daemon" && status=0 || status=$? # returns early when a signal comes
    kill -0 "$daemon" 2>/dev/null || exit "$status"
done
