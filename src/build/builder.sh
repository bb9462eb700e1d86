# Starts the builder, or reaches the one elsewhere. $work is a folder for what it leaves behind.

# Without a process namespace of its own a step that ends leaves running what it has started in the background, and runc
# waits until that has closed its output. Prints each runc whose step has ended, and the processes it is left with.
left_behind='
  /^Name:/ { name = $2 }
  /^Pid:/ { pid = $2; names[pid] = name }
  /^PPid:/ { parents[pid] = $2 }
  /^Init:/ { inits[$2] = 1 }
  END {
    for (pid in parents) if (pid in inits) at_work[parents[pid]] = 1
    for (pid in parents) {
      parent = parents[pid]
      if (names[parent] == "runc" && names[pid] !~ /^runc/ && !(parent in at_work)) print parent, pid
    }
  }
'

# Runs the builder, and ends what steps have left. A step is known to runc before its program starts, so the processes
# are read before what runc knows.
watch_steps='
  left_behind=$1
  shift
  while sleep 1; do
    {
      cat /proc/[0-9]*/status
      sed -n "s/.*\"init_process_pid\":\([0-9]*\).*/Init: \1/p" /run/runc/*/state.json "$XDG_RUNTIME_DIR"/runc/*/state.json
    } | awk "$left_behind" | while read -r runc pid; do
      tr "\0" " " <"/proc/$runc/cmdline" | grep -q " run --bundle " && kill -KILL "$pid"
    done
  done >/dev/null 2>&1 &
  exec "$@"
'

start_builder() {
  if [ "$BUILDER" = remote ]; then
    reach_remote
    return
  fi
  # Whoever knows no user namespaces takes no notice of the wish for one, and the pod is root on its node.
  if [ -n "${USER_NAMESPACE-}" ] && ! awk '$3 > 4000000000 { exit 1 }' /proc/self/uid_map; then
    fail 82 "the pod has no user namespace; the profile UserNamespace needs Kubernetes 1.33 and a runtime that makes them"
  fi
  export BUILDKIT_HOST="unix://$work/buildkitd.sock"
  printf '%s' "$BUILDKITD_CONFIG" >"$work/buildkitd.toml"
  [ -z "${CACHE_MEGABYTES-}" ] || limit_cache
  # Each file's name stands before its certificates.
  printf '%s' "${AUTHORITIES-}" | awk '/^\/context\/authority-/ { file = $0; next } { print >file }'
  # A cache that was made as one user is of no use to another.
  folder "$STATE/$BUILDER"
  set -- buildkitd --config "$work/buildkitd.toml" --root "$STATE/$BUILDER" --addr "$BUILDKIT_HOST"
  if [ "$BUILDER" = rootless ]; then
    set -- sh -c "$watch_steps" sh "$left_behind" "$@" --oci-worker-no-process-sandbox
    set -- rootlesskit --net=host --copy-up=/etc --copy-up=/run "$@"
  fi
  "$@" >"$work/buildkitd.log" 2>&1 &
  daemon=$!
  waited=0
  until buildctl debug workers >"$work/workers" 2>/dev/null; do
    waited=$((waited + 1))
    if [ "$waited" -gt 600 ] || ! kill -0 "$daemon" 2>/dev/null; then
      tail -n 30 "$work/buildkitd.log"
      fail 70 "the builder did not start"
    fi
    sleep 0.1
  done
}

# $CACHE_MEGABYTES is what the spec gives the cache. A claim that was made smaller has stayed so, and a volume that is a
# folder of a large disk is no reason to fill that: the least counts.
limit_cache() {
  CACHE_MEGABYTES=$(df -Pk "$STATE" | awk -v given="$CACHE_MEGABYTES" '
    NR == 2 { has = int($2 * 1024 / 1000000 * 0.8) }
    END { print (has > 0 && has < given ? has : given) }
  ')
  printf '[worker.oci]\n  gc = true\n  maxUsedSpace = %s000000\n' "$CACHE_MEGABYTES" >>"$work/buildkitd.toml"
}

reach_remote() {
  [ ! -d /tls ] || tls=--tlsdir=/tls
  waited=0
  # shellcheck disable=SC2086 # none or one argument
  until timeout 20 buildctl $tls debug workers >"$work/workers" 2>"$work/said"; do
    waited=$((waited + 1))
    [ "$waited" -lt 3 ] ||
      fail 75 "the remote builder $BUILDKIT_HOST cannot be used: $(tail -n 1 "$work/said" | sed 's/^error: //')"
    sleep 1
  done
}

