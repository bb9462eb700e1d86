# Tells which platforms' programs the node runs: the builder runs a program of each to find out.
work=$(mktemp -d)
tls=
daemon=
trap 'exit 143' TERM INT
start_builder
awk 'NR > 1 { print $2 }' "$work/workers" >/dev/termination-log
kill -TERM "$daemon"
wait "$daemon" || true
