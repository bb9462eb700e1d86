# Runs one build and ends. $@ are buildctl's arguments. The exit codes stand in ExitCause.
set -eu
set -o pipefail
work=$(mktemp -d)
socket="unix://$work/buildkitd.sock"
log=$work/build.log
daemon_log=$work/buildkitd.log

# Ending the daemon ends everything that hangs on it.
stop() {
  kill -TERM "$daemon" 2>/dev/null || true
  exit 143
}

printf '%s' "$BUILDKITD_CONFIG" >"$work/buildkitd.toml"
case "$CONTEXT_KIND" in
configmap)
  # A ConfigMap's files are links, which a build context must not follow: copy what they point at. All platforms
  # build the same content, so what was edited since is refused.
  mkdir "$work/context"
  printf '%s' "$CONTEXT_FILES" | while read -r _ file; do cp -L "/context/$file" "$work/context/" || true; done
  if ! (cd "$work/context" && printf '%s' "$CONTEXT_FILES" | sha256sum -c >/dev/null 2>&1); then
    echo "error: the ConfigMap was edited after it was read"
    exit 69
  fi
  set -- "$@" --local "context=$work/context" --local "dockerfile=$work/context"
  ;;
inline)
  mkdir "$work/context"
  printf '%s' "$INLINE_DOCKERFILE" >"$work/context/Dockerfile"
  set -- "$@" --local "context=$work/context" --local "dockerfile=$work/context"
  ;;
esac

rootlesskit --net=host --copy-up=/etc --copy-up=/run buildkitd --config "$work/buildkitd.toml" \
  --root "$HOME/.local/share/buildkit" --addr "$socket" --oci-worker-no-process-sandbox >"$daemon_log" 2>&1 &
daemon=$!
trap stop TERM INT
waited=0
until buildctl --addr "$socket" debug workers >/dev/null 2>&1; do
  waited=$((waited + 1))
  if [ "$waited" -gt 600 ] || ! kill -0 "$daemon" 2>/dev/null; then
    tail -n 30 "$daemon_log"
    echo "the builder did not start"
    exit 70
  fi
  sleep 0.1
done

began=$(date +%s)
{
  status=0
  timeout -k 10 "$BUILD_TIMEOUT" buildctl --addr "$socket" build --progress=plain \
    --metadata-file "$work/metadata.json" "$@" 2>&1 || status=$?
  echo "$status" >"$work/status"
} | tee "$log" &
wait "$!"
status=$(cat "$work/status")

if [ "$status" -eq 0 ]; then
  digest=$(sed -n 's/.*"containerimage.digest": *"\([a-z0-9]*:[0-9a-f]*\)".*/\1/p' "$work/metadata.json")
  printf '{"digest":"%s"}' "$digest" >/dev/termination-log
  exit 0
fi
# The last lines of the container's log become the termination message.
# buildctl ends a cancelled build in good order, so its exit code does not tell that the time was over.
if [ "$(($(date +%s) - began))" -ge "$BUILD_TIMEOUT" ]; then
  echo "error: the build did not end within $BUILD_TIMEOUT s"
  exit 67
fi
# BuildKit's last word, of more than one line where it repeats git's. A digest in it may hold 401 or 403 too, and what
# git could not fetch may be there the next time.
cause=$(awk '/^error: failed to /{text = ""; on = 1} on{text = text $0 "\n"} END{printf "%s", text}' "$log")
case "$cause" in
*"did not complete successfully"* | *"dockerfile parse error"* | *"target stage"*"could not be found"*) exit 65 ;;
*"failed to calculate checksum of ref"*"not found"*) exit 65 ;;
*"failed to push"*" denied"* | *"failed to push"*"403 Forbidden"*) exit 66 ;;
*"failed to push"*"401 Unauthorized"* | *"failed to push"*"insufficient_scope"*) exit 66 ;;
*"failed to read dockerfile: open "* | *"failed to read dockerfile: invalid subdir"*) exit 68 ;;
*"repository '"*"' not found"* | *"couldn't find remote ref"* | *"not our ref"*) exit 68 ;;
esac
exit 1
