#!/usr/bin/env bash
# The whole of multiarch-operator in one command; `make demo` calls it.
#
#   demo.sh          everything, and takes it all down again
#   demo.sh down     takes down what KEEP=1 left
#
# KEEP=1                 leaves cluster and operator running
# DEMO_SHORT=1           the main sample only
# DEMO_TIMEOUT=300       seconds to wait for one sample
# DEMO_TIER=…            of the rig: auto, nodes or control-plane
# NO_COLOR=1             no colours
# DEMO_CONTEXT=<name>    that cluster instead of the rig. It needs
#   DEMO_REGISTRY=<host/path>       where the cluster and this machine can push; and perhaps
#   DEMO_DOCKER_CONFIG=<file>       credentials for it, a docker config.json
#   DEMO_PLAIN_HTTP=1               it speaks plain HTTP (or, where others do as well, all of them: host:port,host:port)
#   DEMO_PLATFORMS="linux/amd64 …"  the platforms to build; those of the nodes unless given
#   DEMO_GIT=<url>[#ref]            builds this repository instead of examples/demo/app
#   DEMO_NAMESPACE=multiarch-demo   made for the demo, and deleted after it
#   DEMO_BUILDER_IMAGE, DEMO_BASE, DEMO_PREPARE, DEMO_IMAGE   other images than BuildKit, Alpine and busybox
set -Eeuo pipefail

if ((BASH_VERSINFO[0] < 5)); then
  echo "This needs bash 5 (it is bash $BASH_VERSION). On macOS: brew install bash" >&2
  exit 1
fi
shopt -u patsub_replacement 2>/dev/null || true
if locale -a 2>/dev/null | grep -qix 'C\.utf-\?8'; then export LC_ALL=C.UTF-8; fi

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$ROOT"
WORK=$ROOT/target/demo
LOGS=$WORK/logs
NAMESPACE=${DEMO_NAMESPACE:-multiarch-demo}
CONTEXT=${DEMO_CONTEXT:-}
TIMEOUT=${DEMO_TIMEOUT:-300}
CHILDREN=() OPERATOR='' LOCKED=0
mkdir -p "$LOGS"

# shellcheck source=examples/demo/lib/terminal.sh
source examples/demo/lib/terminal.sh
# shellcheck source=examples/demo/lib/cluster.sh
source examples/demo/lib/cluster.sh
# shellcheck source=examples/demo/lib/watch.sh
source examples/demo/lib/watch.sh
# shellcheck source=examples/demo/lib/proof.sh
source examples/demo/lib/proof.sh

# One demo at a time in a checkout.
lock() {
  local other
  if ! (set -o noclobber && echo $$ >"$WORK/pid") 2>/dev/null; then
    other=$(<"$WORK/pid")
    [[ $(ps -o args= -p "${other:-0}" 2>/dev/null) != *demo.sh* ]] || fail "A demo runs in this checkout already (process $other)." "Let it end, or end it:  make demo-down"
    echo $$ >"$WORK/pid"
  fi
  LOCKED=1
}

leave() {
  local status=$?
  # A second Ctrl-C must not leave half of it behind.
  trap '' INT TERM HUP PIPE
  trap - ERR EXIT
  set +e
  terminal_restore
  if ((LOCKED)); then
    if ((!KEPT && (RIG_UP || NAMESPACE_IS_OURS))); then dim "cleaning up …"; fi
    if ((!KEPT)); then
      take_down
      rm -f "$WORK/left"
    fi
    rm -f "$WORK/pid"
  fi
  exit "$status"
}

interrupted() {
  terminal_restore
  printf '\n  %sinterrupted%s\n' "$YELLOW" "$PLAIN"
  exit "$1"
}

unexpected() {
  fail "$1 failed unexpectedly (line $2 of ${3#"$ROOT/"})." "Logs: $LOGS"
}

# render SAMPLE: its YAML with this cluster's names in it, on the terminal and in a file, then applied.
apply_sample() {
  local text key file=$WORK/$1.yaml
  text=$(<"examples/demo/samples/$1.yaml")
  for key in REGISTRY UNAME BUSYBOX BASE PREPARE GIT_URL SECRETS PLATFORMS CONTEXT_OF_BUILD NOWHERE; do
    text=${text//"@$key@"/"${!key:-}"}
  done
  printf '%s\n' "$text" >"$file"
  command_line "kubectl apply -f ${file#"$ROOT/"}"
  show "$file"
  echo
  "${KUBECTL[@]}" apply -f "$file" >"$LOGS/apply.log" 2>&1 || {
    show_end "$LOGS/apply.log"
    fail "The API server does not take this sample."
  }
}

prepare_machine() {
  heading "Compile"
  if [[ -n $CONTEXT ]]; then check_context; fi
  find_compilers
  if [[ -z $CONTEXT ]]; then
    build_devcluster
    rig_packages
  fi
  need git git "serves the sample's sources"
  need skopeo skopeo "reads the registry, independently of the operator"
  build_operator
}

start_cluster() {
  if [[ -z $CONTEXT ]]; then
    heading "Start a cluster: API server, scheduler, kubelets, registry; all real, all local"
    start_rig
    push_app
    if [[ $TIER == nodes ]]; then
      echo
      dim "This machine is $(uname -m): what runs on its other nodes runs under QEMU. On a cluster of yours they are real."
    fi
  else
    heading "Use the cluster behind the context $CONTEXT"
    use_context
  fi
  skopeo_options
  echo
  install_crd
  start_operator
}

main_sample() {
  local sample=hello status=0
  if [[ $TIER == control-plane ]]; then
    heading "One image, three platforms, all of them from existing images"
    note "There are no nodes here, so nothing can be built: a build would stay Waiting, as the last sample shows."
    note "On Linux, as root, make demo builds as well. On a cluster of yours: make demo DEMO_CONTEXT=<kubectl context>"
    echo
    sample=sources
  elif [[ -n $CONTEXT ]]; then
    heading "One image, built on a node of every architecture that the cluster has"
    sample=hello-anywhere
    anywhere
  else
    heading "One image, three platforms: two are built, each on its own node; one exists"
    say "A small C program (examples/demo/app), pushed to a git server as commit $COMMIT."
    echo
  fi
  apply_sample "$sample"
  watch_image hello until_ready || status=$?
  ((status == 0)) || platform_failed hello
  MAIN_TOOK=$TOOK MAIN_DIGEST=$DIGEST MAIN_COUNT=$COUNT
}

# The parts of the sample that depend on somebody else's cluster.
anywhere() {
  local platform
  PLATFORMS=''
  for platform in ${DEMO_PLATFORMS:-$(node_platforms)}; do PLATFORMS+="  - platform: $platform"$'\n'; done
  PLATFORMS=${PLATFORMS%$'\n'}
  if [[ -n ${DEMO_GIT:-} ]]; then
    CONTEXT_OF_BUILD="git: {url: ${DEMO_GIT%%#*}"
    [[ $DEMO_GIT != *'#'* ]] || CONTEXT_OF_BUILD+=", ref: ${DEMO_GIT#*#}"
    CONTEXT_OF_BUILD+='}'
  else
    CONTEXT_OF_BUILD='configMap: {name: hello-sources}'
    command_line "kubectl create configmap hello-sources --from-file=examples/demo/app"
    "${KUBECTL[@]}" create configmap hello-sources --from-file=examples/demo/app >/dev/null
  fi
}

# Why an image that should have become ready has not.
platform_failed() {
  local i
  for i in "${!NAMES[@]}"; do
    [[ ${PHASES[i]} != Failed ]] || printf '\n  %s%s %s%s\n    %s\n' "$RED" "${NAMES[i]}" "${REASONS[i]}" "$PLAIN" "${MESSAGES[i]}" >&2
  done
  fail "multiarchimage/$1: $REASON" "$MESSAGE" "The operator's log: $LOGS/operator.log"
}

proof() {
  heading "The proof: what the registry has, and what runs"
  prove_index "$REGISTRY/hello" 1.0.0 latest
  [[ $TIER == nodes ]] || return 0
  echo
  if [[ -z $CONTEXT ]]; then add_node s390x; fi
  prove_run "$REGISTRY/hello"
}

add_node() {
  command_line "devcluster node add $1"
  "$DEVCLUSTER" node add "$1" --dir "$RIG" >"$LOGS/node.log" 2>&1 || {
    show_end "$LOGS/node.log"
    fail "The rig cannot add a node for $1." "Its logs: $RIG/logs"
  }
}

# Whether there are nodes of both architectures that the failing sample is for.
fails_here() { [[ $TIER == nodes && $(node_platforms | grep -cx 'linux/a[mr][dm]64') == 2 ]]; }

failing_sample() {
  local i
  heading "When one platform fails: code that only compiles for x86"
  apply_sample broken
  watch_image broken until_settled || true
  for i in "${!NAMES[@]}"; do
    [[ ${PHASES[i]} == Failed ]] || continue
    printf '\n  %s%s %s%s: %s\n' "$RED" "${NAMES[i]}" "${REASONS[i]}" "$PLAIN" "${MESSAGES[i]}"
  done
  echo
  command_line "kubectl get mai broken -o jsonpath='{.status.platforms[*].logTail}'"
  "${KUBECTL[@]}" get multiarchimage broken -o jsonpath='{.status.platforms[*].logTail}' >"$WORK/tail.txt"
  tail -n 12 "$WORK/tail.txt" | cut -c 1-150 >"$WORK/tail.cut.txt"
  show "$WORK/tail.cut.txt"
  echo
  prove_untagged "$REGISTRY/broken:latest"
}

waiting_sample() {
  local architecture
  for architecture in riscv64 ppc64le s390x; do
    NOWHERE=linux/$architecture
    node_platforms | grep -qx "$NOWHERE" || break
  done
  heading "When no node fits: waiting is not failing"
  apply_sample waiting
  watch_image waiting until_no_node || true
  printf '\n  %s%s%s\n' "$YELLOW" "${MESSAGES[${#MESSAGES[@]} - 1]}" "$PLAIN"
  [[ -z $CONTEXT && $TIER == nodes ]] || return 0
  printf '\n  A node comes: the build that waits for it goes on by itself.\n'
  add_node "$architecture"
  echo
  local status=0
  watch_image waiting until_ready || status=$?
  ((status == 0)) || platform_failed waiting
}

summary() {
  local total
  now
  duration $((NOW - BEGAN))
  total=$DURATION
  duration "$MAIN_TOOK"
  printf '\n%s%s✔ %s platforms, one index, in %s; the whole demo in %s%s\n\n' "$BOLD" "$GREEN" "${MAIN_COUNT%%/*}" "$DURATION" "$total" "$PLAIN"
  say "$REGISTRY/hello:1.0.0 and :latest"
  say "$MAIN_DIGEST"
  echo
  if [[ -n ${KEEP:-} ]]; then
    keep
    say "Everything stays up. To look around:"
    printf '\n    export KUBECONFIG=%s\n    %s get mai -w\n' "$KUBECONFIG" "${KUBECTL[*]}"
    printf '    %s describe mai hello\n\n' "${KUBECTL[*]}"
    say "The operator's log: $LOGS/operator.log"
    say "To stop it all:  make demo-down"
  else
    say "make demo KEEP=1                  leaves it running, to look around with kubectl"
    say "make demo DEMO_CONTEXT=<context>  builds on a cluster of yours (see examples/demo/demo.sh)"
    say "config/samples/                   resources to start from"
    echo
  fi
}

now
BEGAN=$NOW
case ${1:-} in
  '') ;;
  down)
    # One that runs cleans up after itself.
    if [[ -f $WORK/pid ]] && other=$(<"$WORK/pid") && [[ $(ps -o args= -p "$other" 2>/dev/null) == *demo.sh* ]]; then
      kill -TERM "$other" && while kill -0 "$other" 2>/dev/null; do sleep 0.2; done
    fi
    lock
    trap leave EXIT
    take_down_left
    say "the demo is down"
    exit
    ;;
  *) fail "unknown argument $1" "make demo, or make demo-down" ;;
esac

lock
trap leave EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP
trap 'unexpected "$BASH_COMMAND" "$LINENO" "${BASH_SOURCE[0]}"' ERR

STEPS=4
if [[ -z ${DEMO_SHORT:-} ]]; then STEPS=6; fi
if [[ -e $WORK/left ]]; then
  note "an earlier demo was kept, or killed; what it left is taken down first"
  (take_down_left)
fi
rm -f "$LOGS"/*.log
printf '\n%s%s multiarch-operator %s one image, every architecture, from one resource\n' "$BOLD" "$BLUE" "$PLAIN"
SECRETS=''
# shellcheck disable=SC2034 # the templates read it by name
if [[ -n ${DEMO_DOCKER_CONFIG:-} ]]; then SECRETS=$'  registrySecrets: [{name: registry}]\n'; fi

prepare_machine
start_cluster
main_sample
proof
if [[ -z ${DEMO_SHORT:-} ]]; then
  if fails_here; then failing_sample; else STEPS=5; fi
  waiting_sample
fi
summary
