# shellcheck shell=bash
# Where the demo runs: the rig of tests/devcluster, or the cluster behind DEMO_CONTEXT. Brings up what is needed, says
# what is missing, and takes everything down again.

readonly RIG="$WORK/rig" DEVCLUSTER="$WORK/devcluster"
RIG_UP=0 CRD_IS_OURS=0 NAMESPACE_IS_OURS=0 KEPT=0 TIER=''

# Puts the usual places of Rust and Go into the path: a new shell may not have them yet.
find_compilers() {
  local dir
  for dir in "$HOME/.cargo/bin" /usr/local/go/bin; do [[ ":$PATH:" == *":$dir:"* || ! -d $dir ]] || PATH+=":$dir"; done
  command -v cargo >/dev/null || fail "Rust is missing: it compiles the operator." \
    "Install it:  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" "Then run make demo again."
  [[ -n $CONTEXT ]] || command -v go >/dev/null || fail "Go is missing: it compiles the cluster that the demo runs on." \
    "Install Go 1.26 or newer:  https://go.dev/dl/" "Then run make demo again, or use a cluster of yours:  make demo DEMO_CONTEXT=<kubectl context>"
}

# need PROGRAM PACKAGE WHAT-FOR: installs a program where that is possible, or says how.
need() {
  command -v "$1" >/dev/null && return
  local line="apt-get update && apt-get install -y --no-install-recommends $2"
  if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
    follow "install $2 ($3)" "$LOGS/apt.log" hint_last_line sh -c "DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; $line" && return
    show_end "$LOGS/apt.log"
    fail "$2 could not be installed." "Install it and run make demo again:  $line"
  fi
  fail "$1 is missing: it $3." "On Debian and Ubuntu, as root:  $line" "On macOS:  brew install $2"
}

build_operator() {
  CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 CARGO_TERM_COLOR=never \
    follow "the operator: cargo build --release" "$LOGS/cargo.log" hint_cargo cargo build --release --locked && return
  show_end "$LOGS/cargo.log" 30
  fail "The operator does not compile." "The whole output: $LOGS/cargo.log"
}

build_devcluster() {
  [[ -d tests/devcluster ]] || fail "tests/devcluster is missing: this checkout is not complete." "Without it, use a cluster of yours:  make demo DEMO_CONTEXT=<kubectl context>"
  follow "the rig's own program: go build ./tests/devcluster" "$LOGS/go.log" hint_last_line go -C tests/devcluster build -o "$DEVCLUSTER" . && return
  show_end "$LOGS/go.log"
  fail "tests/devcluster does not compile." "The whole output: $LOGS/go.log"
}

# Debian packages that nodes need; without root the rig has a control plane only, and says so itself.
rig_packages() {
  local missing
  missing=$("$DEVCLUSTER" deps 2>&1) && return
  if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
    follow "install the rig's packages: devcluster deps --install" "$LOGS/apt.log" hint_last_line "$DEVCLUSTER" deps --install && return
    show_end "$LOGS/apt.log"
    fail "The rig's packages could not be installed." "What is missing:" "$missing"
  fi
  note "Nodes need packages, and root to install and to run them. Without: a control plane and a registry, no builds."
  printf '%s\n' "$missing" | sed 's/^/    /'
}

# state KEY: a value of what `devcluster up` printed; keys are unique.
state() { sed -n "s/^ *\"$1\": \"\\(.*\\)\",\\{0,1\\}\$/\\1/p" "$WORK/state.json" | head -n 1; }

start_rig() {
  local child status=0
  RIG_UP=1
  # It builds what is missing and says how far it is at least every ten seconds.
  background "$DEVCLUSTER" up --dir "$RIG" --tier "${DEMO_TIER:-auto}" --owner-pid $$ >"$WORK/state.json"
  child=$CHILD
  wait "$child" || status=$?
  if ((status != 0)); then
    show_end "$RIG/logs/supervisor.log"
    fail "The rig did not start; what it says stands above." "Its logs: $RIG/logs" "Is the disk full, or another rig in a bad state? make demo-down cleans up what is left of this one."
  fi
  TIER=$(state tier) REGISTRY_HOST=$(state registry) REGISTRY=$REGISTRY_HOST/demo
  BUILDER=$(state builderImage) BASE=$(state compiler) BUSYBOX=$(state busybox) UNAME=$(state uname-s390x)
  GIT_URL=$(state url) GIT_ROOT=$(state root)
  PLAIN_HTTP=1 PREPARE=true
  export KUBECONFIG=$RIG/kubeconfig
  KUBECTL=("$(state kubectl)" -n "$NAMESPACE")
}

# The repository that the main sample is built from, served by the rig.
push_app() {
  local git="git -c user.name=demo -c user.email=demo@localhost -c init.defaultBranch=main -c commit.gpgsign=false"
  rm -rf "$WORK/app"
  cp -R examples/demo/app "$WORK/app"
  {
    $git init --bare --quiet "$GIT_ROOT/hello.git"
    $git -C "$WORK/app" init --quiet
    $git -C "$WORK/app" add --all
    $git -C "$WORK/app" commit --quiet --message 'hello, for every architecture'
    $git -C "$WORK/app" push --quiet "$GIT_URL/hello.git" HEAD:refs/heads/main
  } >"$LOGS/git.log" 2>&1 || {
    show_end "$LOGS/git.log"
    fail "The sample's files could not be pushed to $GIT_URL/hello.git."
  }
  COMMIT=$($git -C "$WORK/app" rev-parse --short=12 HEAD)
}

# A cluster that is there already. Nothing of the person's kubeconfig is changed.
check_context() {
  command -v kubectl >/dev/null || fail "kubectl is missing, and DEMO_CONTEXT wants a cluster that it reaches." "https://kubernetes.io/docs/tasks/tools/"
  [[ -n ${DEMO_REGISTRY:-} ]] || fail "DEMO_CONTEXT needs DEMO_REGISTRY=<host/path> as well: where the images go." \
    "The cluster's nodes pull from it, its build pods and this machine push to it." \
    "DEMO_DOCKER_CONFIG=<config.json> gives the credentials, DEMO_PLAIN_HTTP=1 says that it speaks plain HTTP."
  [[ $DEMO_REGISTRY == */* ]] || fail "DEMO_REGISTRY=$DEMO_REGISTRY has no path: write host/path, for example registry.example.com/demo."
  [[ -z ${DEMO_DOCKER_CONFIG:-} || -r $DEMO_DOCKER_CONFIG ]] || fail "DEMO_DOCKER_CONFIG=$DEMO_DOCKER_CONFIG cannot be read."
  (umask 077 && kubectl config view --raw --minify --flatten --context "$CONTEXT" >"$WORK/kubeconfig" 2>"$LOGS/context.log") || {
    show_end "$LOGS/context.log"
    fail "kubectl has no context named $CONTEXT." "There are:  $(kubectl config get-contexts -o name | paste -sd ' ' -)"
  }
  export KUBECONFIG=$WORK/kubeconfig
  kubectl get --raw /readyz --request-timeout=15s >/dev/null 2>"$LOGS/context.log" || {
    show_end "$LOGS/context.log"
    fail "The cluster behind the context $CONTEXT does not answer."
  }
}

use_context() {
  KUBECTL=(kubectl -n "$NAMESPACE")
  REGISTRY=$DEMO_REGISTRY REGISTRY_HOST=${DEMO_REGISTRY%%/*} PLAIN_HTTP=${DEMO_PLAIN_HTTP:-}
  BUILDER=${DEMO_BUILDER_IMAGE:-docker.io/moby/buildkit:v0.33.0-rootless@sha256:80b15f0735e87bab7bf59ec4d695dfb4a7cfb25521cf56dc75d6f256285b63ef}
  BASE=${DEMO_BASE:-docker.io/library/alpine:3.22} PREPARE=${DEMO_PREPARE:-apk add --no-cache gcc musl-dev}
  BUSYBOX=${DEMO_IMAGE:-docker.io/library/busybox:1}
  TIER=nodes
  [[ -n $(node_platforms) ]] || TIER=control-plane
}

# os/arch of every node, once each.
node_platforms() {
  "${KUBECTL[@]}" get nodes -o go-template='{{range .items}}{{index .metadata.labels "kubernetes.io/os"}}/{{index .metadata.labels "kubernetes.io/arch"}}{{"\n"}}{{end}}' | sort -u
}

install_crd() {
  if "${KUBECTL[@]}" get crd multiarchimages.multiarch.dev >/dev/null 2>&1; then
    note "The cluster has the CRD already; it stays as it is. If an operator watches all namespaces there, stop it for the demo."
  else
    CRD_IS_OURS=1
    remember
    command_line "multiarch crd | kubectl apply -f -"
    target/release/multiarch crd >"$WORK/crd.yaml"
    "${KUBECTL[@]}" apply -f "$WORK/crd.yaml" | sed 's/^/    /'
    "${KUBECTL[@]}" wait --for=condition=Established --timeout=30s crd/multiarchimages.multiarch.dev >/dev/null
  fi
  if [[ -n $("${KUBECTL[@]}" get namespace "$NAMESPACE" --ignore-not-found -o name) ]]; then
    fail "The cluster has a namespace $NAMESPACE already." "Is it left from an earlier demo? kubectl delete namespace $NAMESPACE" "Or choose another:  make demo DEMO_NAMESPACE=<name>"
  fi
  NAMESPACE_IS_OURS=1
  remember
  "${KUBECTL[@]}" create namespace "$NAMESPACE" >/dev/null
  # Rootless builds need seccomp and AppArmor out of their way, which the levels baseline and restricted refuse.
  "${KUBECTL[@]}" label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=privileged >/dev/null
  if [[ -n ${DEMO_DOCKER_CONFIG:-} ]]; then
    "${KUBECTL[@]}" create secret generic registry --type kubernetes.io/dockerconfigjson --from-file ".dockerconfigjson=$DEMO_DOCKER_CONFIG" >/dev/null
  fi
}

start_operator() {
  local arguments=(operator --namespace "$NAMESPACE" --builder-image "$BUILDER")
  case $PLAIN_HTTP in
    '') ;;
    1) arguments+=(--plain-http "$REGISTRY_HOST") ;;
    *) arguments+=(--plain-http "$PLAIN_HTTP") ;;
  esac
  command_line "multiarch ${arguments[*]:0:3} \\"
  dim "    ${arguments[*]:3}"
  NO_COLOR=1 RUST_LOG=${RUST_LOG:-info,multiarch=debug} background target/release/multiarch "${arguments[@]}" >>"$LOGS/operator.log" 2>&1
  OPERATOR=$CHILD
  sleep 0.3
  kill -0 "$OPERATOR" 2>/dev/null || operator_died
}

stop_operator() {
  [[ -n ${OPERATOR:-} ]] || return 0
  stop_group "$OPERATOR"
  OPERATOR=''
}

# For demo-down, and for the next demo, if this one leaves something: by KEEP=1, or because it was killed.
remember() {
  printf '%s\n' "operator=$OPERATOR" "context=$CONTEXT" "namespace=$NAMESPACE" "namespace_is_ours=$NAMESPACE_IS_OURS" "crd_is_ours=$CRD_IS_OURS" >"$WORK/left"
}

# KEEP=1: everything stays when the demo ends.
keep() {
  stop_operator
  # This one may outlive the demo.
  UNTETHERED=1 start_operator >/dev/null
  if [[ -z $CONTEXT ]]; then "$DEVCLUSTER" up --dir "$RIG" >/dev/null 2>&1; fi
  remember
  KEPT=1
}

# take_down: everything that this run, or an earlier one, has brought up.
take_down() {
  stop_operator
  local child
  for child in "${CHILDREN[@]}"; do stop_group "$child"; done
  CHILDREN=()
  if [[ -n $CONTEXT ]]; then
    # Deleting the namespace deletes the builds and the images' resources; what was pushed stays in the registry.
    [[ $NAMESPACE_IS_OURS == 0 ]] || kubectl delete namespace "$NAMESPACE" --ignore-not-found --timeout=90s >/dev/null || note "namespace $NAMESPACE is still there; kubectl delete namespace $NAMESPACE"
    [[ $CRD_IS_OURS == 0 ]] || kubectl delete crd multiarchimages.multiarch.dev --ignore-not-found --timeout=60s >/dev/null || note "the CRD multiarchimages.multiarch.dev is still there"
    rm -f "$WORK/kubeconfig"
  elif [[ $RIG_UP == 1 ]]; then
    "$DEVCLUSTER" down --dir "$RIG" >"$LOGS/down.log" 2>&1 || {
      show_end "$LOGS/down.log"
      note "The rig could not be taken down wholly; try make demo-down."
    }
  fi
  NAMESPACE_IS_OURS=0 CRD_IS_OURS=0 RIG_UP=0
}

# What an earlier demo left.
take_down_left() {
  if [[ -f $WORK/left ]]; then
    local key value
    while IFS='=' read -r key value; do
      case $key in
        # Numbers are used again: only if it is still an operator.
        operator) if [[ $(ps -o args= -p "$value" 2>/dev/null) == *"multiarch operator"* ]]; then OPERATOR=$value; fi ;;
        context) CONTEXT=$value ;;
        namespace) NAMESPACE=$value ;;
        namespace_is_ours) NAMESPACE_IS_OURS=$value ;;
        crd_is_ours) CRD_IS_OURS=$value ;;
      esac
    done <"$WORK/left"
    KUBECTL=(kubectl -n "$NAMESPACE")
    export KUBECONFIG=$WORK/kubeconfig
  fi
  if [[ -x $DEVCLUSTER && -d $RIG ]]; then RIG_UP=1; fi
  take_down
  rm -f "$WORK/left"
}
