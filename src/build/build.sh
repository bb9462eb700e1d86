# Runs one build and ends. $@ are buildctl's arguments.

# buildctl within the time that is left.
solve() {
  left=$((began + BUILD_TIMEOUT - $(date +%s)))
  [ "$left" -gt 0 ] || left=1
  # shellcheck disable=SC2086 # none or one argument
  timeout -k 10 "$left" buildctl $tls build --progress=plain --frontend=dockerfile.v0 "$@" 2>&1
}

# buildctl ends a cancelled build in good order, so its exit code does not tell that the time was over.
check_time() {
  [ "$(($(date +%s) - began))" -lt "$BUILD_TIMEOUT" ] || fail 67 "the build did not end within $BUILD_TIMEOUT s"
}

# The files of a ConfigMap, or of a Dockerfile alone. git's are there already.
lay_out_context() {
  case "$CONTEXT_KIND" in configmap | inline) ;; *) return 0 ;; esac
  folder "$files"
  if [ "$CONTEXT_KIND" = inline ]; then
    printf '%s' "$INLINE_DOCKERFILE" "${INLINE_DOCKERFILE_2-}" "${INLINE_DOCKERFILE_3-}" >"$files/Dockerfile"
    return
  fi
  # A ConfigMap's files are links, which a build context must not follow: copy what they point at. All platforms
  # build the same content, so what was edited since is refused.
  # shellcheck disable=SC2016 # sh's own arguments
  find /configmap/ -mindepth 1 -maxdepth 1 ! -name '..*' -exec sh -c 'cp -L "$@" "$0"' "$files" {} + || true
  [ "$(sum_of_files)" = "$CONTEXT_SUM" ] || fail 69 "the ConfigMap was edited after it was read"
}

# The checksum of the checksums of all files, in the order of their names.
sum_of_files() {
  (cd "$files" && find . -type f | sed 's|^\./||' | sort | xargs -r sha256sum --) | sha256sum | cut -d' ' -f1
}

# An archive or an image becomes files here, by BuildKit's own means, which know registries, credentials and
# compressions. As local files they are built like every other context, .dockerignore included.
fetch_context() {
  case "$CONTEXT_KIND" in archive | image) ;; *) return 0 ;; esac
  echo "fetching $CONTEXT_SOURCE"
  mkdir "$work/fetch"
  folder "$files"
  if [ "$CONTEXT_KIND" = archive ]; then
    printf 'FROM scratch\nADD --unpack=true https://context.invalid/archive /\n' >"$work/fetch/Dockerfile"
    printf '%s' "$CONTEXT_POLICY" >"$work/policy.json"
    set -- --source-policy-file "$work/policy.json"
  else
    printf 'FROM scratch\nCOPY --from=source / /\n' >"$work/fetch/Dockerfile"
    set -- --opt "context:source=docker-image://$CONTEXT_SOURCE" --opt "platform=$PLATFORM"
  fi
  set -- "$@" --local "context=$work/fetch" --local "dockerfile=$work/fetch" --output "type=local,dest=$files"
  if ! solve "$@" >"$work/log"; then
    cat "$work/log"
    check_time
    explain_fetch "$@"
  fi
  # What its owner may not read cannot be sent to the builder.
  chmod -R u+rX "$files"
}

explain_fetch() {
  check_memory "$(explained)"
  if grep -q '^error: .*digest mismatch' "$work/log"; then
    # BuildKit compares the digest of whatever a server answers. Without one to compare it looks at the status.
    mismatch="$CONTEXT_SOURCE: $(last_words | sed 's/.*digest mismatch/digest mismatch/')"
    sed -i -e 's/"attrs":{[^}]*},//' -e 's/,"attrs":{[^}]*}//' "$work/policy.json"
    ! solve "$@" >"$work/log" || fail 80 "$mismatch"
  fi
  words=$(last_words | sed -e 's/^error: failed to solve: //' -e 's/^failed to resolve source metadata for [^ ]*: //')
  case "$words" in *"$CONTEXT_SOURCE"*) ;; *) words="$CONTEXT_SOURCE: $words" ;; esac
  case "$words" in
  *"no match for platform in manifest"*) fail 68 "$words" ;;
  *" 401"* | *" 403"* | *"authorization failed"* | *"insufficient_scope"*) fail 74 "$words" ;;
  *" 404"* | *" 410"* | *"not found"*) fail 68 "$words" ;;
  esac
  fail 73 "$words"
}

build() {
  set -- "$@" --local "context=$files" --local "dockerfile=$files"
  if [ -n "${EPOCH_OF_CONTEXT-}" ]; then
    [ -f /context/epoch ] ||
      fail 79 "SOURCE_DATE_EPOCH: context stands for the time of a git commit, and the context is no git repository"
    set -- "$@" --opt "build-arg:SOURCE_DATE_EPOCH=$(cat /context/epoch)"
  fi
  if [ -n "${SSH_SECRET-}" ]; then
    key=/ssh/identity
    [ -f "$key" ] || key=/ssh/ssh-privatekey
    [ -f "$key" ] || fail 81 "secret/$SSH_SECRET has neither identity nor ssh-privatekey"
    set -- "$@" --ssh "default=$key"
  fi
  solve --metadata-file "$work/metadata.json" "$@" | tee "$work/log" | without_absent_caches
}

# A cache that is not there yet is no error, though BuildKit calls it one, and tells it once more at the end.
without_absent_caches() {
  awk '
    /ERROR: failed to configure registry cache importer: .*not found/ { sub(/ERROR: .*/, "no cache is there yet"); absent = 1 }
    again { again = $0 != "------"; next }
    absent && held && / > importing cache manifest from / { held = 0; again = 1; next }
    held { print "------"; held = 0 }
    $0 == "------" { held = 1; next }
    { print; fflush() }
    END { if (held) print "------" }
  '
}

report() {
  digest=$(sed -n 's/.*"containerimage.digest": *"\([a-z0-9]*:[0-9a-f]*\)".*/\1/p' "$work/metadata.json")
  printf '{"digest":"%s"}' "$digest" >/dev/termination-log
}

# BuildKit's last word, of more than one line where it repeats others'.
last_words() {
  awk '/^error: /{text = ""; on = 1} on{text = text $0 "\n"} END{printf "%s", text}' "$work/log"
}

# What failed, after the place in the Dockerfile, if BuildKit names one: `Dockerfile:5: RUN make: …`
explained() {
  awk '
    /^error: / { text = ""; on = 1 }
    on { text = text (text == "" ? "" : " ") $0; next }
    /^[^# ].*:[0-9]+$/ { place = $0; step = "" }
    place && !step && / >>> / { step = $0; sub(/^.* >>> /, "", step) }
    END {
      sub(/^error: /, "", text)
      sub(/^failed to solve: /, "", text)
      sub(/^[^ ]+: failed to resolve source metadata for [^ ]+: /, "", text)
      if (place) {
        sub(/^process ".*" did not/, "did not", text)
        sub(/^dockerfile parse error on line [0-9]+: /, "", text)
        text = place ": " (step ? step ": " : "") text
      }
      print text
    }
  ' "$work/log"
}

# Processes that the kernel has killed in this container for want of memory. A privileged container sees the cgroups of
# the whole node, so its own is looked up.
out_of_memory_kills() {
  own=$(awk -F: '$2 == "" { unified = $3 } $2 ~ /(^|,)memory(,|$)/ { memory = "/memory" $3 }
    END { print memory ? memory : unified }' /proc/self/cgroup)
  root=/sys/fs/cgroup
  case "$own" in /memory*) root=/sys/fs/cgroup/memory ;; esac
  [ ! -d "/sys/fs/cgroup$own" ] || root=/sys/fs/cgroup$own
  find "$root" -name memory.events -o -name memory.oom_control 2>/dev/null |
    xargs cat 2>/dev/null | awk '$1 == "oom_kill" { kills += $2 } END { print kills + 0 }' || true
}

# Whatever fails after a kill is told as the kill. A compiler that is killed ends what has called it with a code of its
# own, and a builder that is killed leaves buildctl with a connection that has broken off.
check_memory() {
  [ "$(out_of_memory_kills)" -le "$kills_before" ] ||
    fail 71 "$1: killed for want of memory; raise spec.build.pod.resources.limits.memory"
}

# Steps say of a full disk what they like, if anything.
check_disk() {
  [ -n "${STATE-}" ] || return 0
  full=$(disks_with_less_than 32768 -Pk) || true
  [ -z "$full" ] || fail 72 "$1: no space left on the disk of $full"
  full=$(disks_with_less_than 16 -Pi) || true
  [ -z "$full" ] || fail 72 "$1: no more files fit on the disk of $full"
}

# Of the disks that a build writes to the first with less than $1 left, by what df counts with the option $2.
disks_with_less_than() {
  df "$2" "$STATE" /tmp 2>/dev/null | awk -v least="$1" 'NR > 1 && $2 > 0 && $4 < least && !told++ { print $6 }'
}

# runc now and then loses the process that is to become the step, most of all on a busy node. Another attempt does not.
never_began() {
  grep -q "runc run failed: unable to start container process: .*first child.*: signal: killed" "$work/log"
}

# Whether a program of the platform was started on a node that did not run it when the builder started.
lacks_emulation() {
  grep -q "exec format error" "$work/log" || return 1
  platforms=$(awk 'NR > 1 { print $2 }' "$work/workers" | tr '\n' ',')
  case ",$platforms" in *",$PLATFORM,"*) return 1 ;; esac
}

# Ends with the exit code of the cause. Only BuildKit's last word counts, for a step prints what it likes. A digest in
# it may hold 401 or 403 too.
explain() {
  words=$(explained)
  check_memory "$words"
  case "$(last_words)" in
  "error: failed to solve: process "*"did not complete successfully"*)
    check_disk "$words"
    ! never_began || fail 1 "$words: its process was killed before it began"
    ! lacks_emulation ||
      fail 76 "$words: the node runs ${platforms%,} and not $PLATFORM; install emulation on it (tonistiigi/binfmt)"
    fail 65 "$words" ;;
  *"no space left on device"*) fail 72 "$words" ;;
  *"dockerfile parse error"* | *"target stage"*"could not be found"*) fail 65 "$words" ;;
  *"failed to calculate checksum of ref"*"not found"*) fail 65 "$words" ;;
  "error: failed to solve: secret "*"not found" | "error: failed to solve: no SSH key"*) fail 65 "$words" ;;
  *"failed to push"*" denied"* | *"failed to push"*"403 Forbidden"*) fail 66 "$words" ;;
  *"failed to push"*"401 Unauthorized"* | *"failed to push"*"insufficient_scope"*) fail 66 "$words" ;;
  # Registries that make no repositories by themselves, such as ECR. Other requests get 404 when an upload was lost.
  *"failed to push"*"POST request to "*": 404 Not Found"* | *"failed to push"*"name unknown"*)
    fail 66 "$words: the repository does not exist; create it in the registry" ;;
  *"429 Too Many Requests"* | *"toomanyrequests"*) fail 84 "$words" ;;
  *"failed to push"* | *": 50"[0-9]" "* | *"i/o timeout"* | *"connection refused"* | *"no such host"*) fail 83 "$words" ;;
  *"failed to read dockerfile: open "* | *"failed to read dockerfile: invalid subdir"*) fail 68 "$words" ;;
  *"no match for platform in manifest"*) fail 77 "$words" ;;
  *"failed to resolve source metadata for "*"401 Unauthorized"* | \
    *"failed to resolve source metadata for "*"403 Forbidden"* | *"authorization failed"* | *"insufficient_scope"*)
    fail 74 "$words" ;;
  *"failed to resolve source metadata for "*"not found"*) fail 78 "$words" ;;
  esac
  fail 1 "$words"
}

# Leaves the next build a cache with room in it, and all of it on disk. The build has ended, and waits for neither long.
leave_cache() {
  [ -n "${CACHE_MEGABYTES-}" ] && kill -0 "$daemon" 2>/dev/null || return 0
  timeout -k 5 120 buildctl prune --keep-storage="$CACHE_MEGABYTES" >/dev/null 2>&1 || true
  kill -TERM "$daemon" 2>/dev/null || true
  waited=0
  while [ "$waited" -lt 300 ] && kill -0 "$daemon" 2>/dev/null; do
    waited=$((waited + 1))
    sleep 0.1
  done
}

main() {
  work=$(mktemp -d)
  files=/context/files
  tls=
  daemon=
  began=$(date +%s)
  kills_before=$(out_of_memory_kills)
  lay_out_context
  start_builder
  fetch_context
  status=0
  build "$@" || status=$?
  # The cause is looked for in what the build has left, before any of it goes.
  if [ "$status" -eq 0 ]; then
    report
  else
    (check_time && explain) || status=$?
  fi
  leave_cache
  exit "$status"
}

# Ending the container's first process ends everything in it.
trap 'exit 143' TERM INT
{ main "$@" 2>&1 | redact; } &
wait "$!"
