# shellcheck shell=bash
# The proof: what the registry has, byte for byte, and what its images say where they run.

SKOPEO_OPTIONS=()

# Flags for skopeo, once it is known which registry it speaks to.
skopeo_options() {
  if [[ -n $PLAIN_HTTP ]]; then SKOPEO_OPTIONS+=(--tls-verify=false); fi
  if [[ -n ${DEMO_DOCKER_CONFIG:-} ]]; then SKOPEO_OPTIONS+=(--authfile "$DEMO_DOCKER_CONFIG"); fi
}

raw() { skopeo inspect --raw "${SKOPEO_OPTIONS[@]}" "docker://$1"; }

sha256() { if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1; }

# JSON, indented; small objects of plain values stay on a line.
pretty() {
  awk '
    { text = text $0 }
    END {
      n = length(text); depth = 0; quoted = 0
      for (i = 1; i <= n; i++) {
        c = substr(text, i, 1)
        if (quoted) {
          out = out c
          if (c == "\\") { i++; out = out substr(text, i, 1) } else if (c == "\"") quoted = 0
        } else if (c == "\"") { quoted = 1; out = out c }
        else if (c == "{" || c == "[") { depth++; out = out c line(depth) }
        else if (c == "}" || c == "]") { depth--; out = out line(depth) c }
        else if (c == ",") out = out c line(depth)
        else if (c == ":") out = out ": "
        else if (c !~ /[ \t\r\n]/) out = out c
      }
      print out
    }
    function line(d,  s) { s = "\n"; while (d-- > 0) s = s "  "; return s }
  '
}

# prove_index IMAGE TAG…: the index as the registry has it, under every tag, against the digest in the status.
prove_index() {
  local image=$1 tag found
  shift
  command_line "skopeo inspect --raw docker://$image:$1"
  raw "$image:$1" >"$WORK/index.json" 2>"$LOGS/skopeo.log" || {
    show_end "$LOGS/skopeo.log"
    fail "skopeo cannot read $image:$1."
  }
  pretty <"$WORK/index.json" >"$WORK/index.pretty.json"
  show "$WORK/index.pretty.json"
  echo
  for tag in "$@"; do
    raw "$image:$tag" >"$WORK/index.json"
    found=sha256:$(sha256 "$WORK/index.json")
    [[ $found == "$DIGEST" ]] || fail "The tag $tag has $found, and the status says $DIGEST."
    good "sha256sum of $tag is the digest in the status: ${found:0:19}…"
  done
}

# An object for a pod that runs one platform by its own digest, on a node of that platform.
proof_pod() {
  local name=$1 image=$2 platform=$3 secrets='[]'
  if [[ -n ${DEMO_DOCKER_CONFIG:-} ]]; then secrets='[{name: registry}]'; fi
  cat <<YAML
---
apiVersion: v1
kind: Pod
metadata: {name: $name}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  nodeSelector: {kubernetes.io/os: "${platform%%/*}", kubernetes.io/arch: "$(cut -d / -f 2 <<<"$platform")"}
  imagePullSecrets: $secrets
  containers: [{name: run, image: "$image"}]
YAML
}

# prove_run IMAGE: every platform of the image that was watched last, each by its own digest, as a pod.
prove_run() {
  local image=$1 i name pods=() began phases tries
  : >"$WORK/pods.yaml"
  for i in "${!NAMES[@]}"; do
    name=run-${NAMES[i]//\//-}
    pods+=("$name")
    proof_pod "$name" "$image@${DIGESTS[i]}" "${NAMES[i]}" >>"$WORK/pods.yaml"
  done
  now
  began=$NOW
  "${KUBECTL[@]}" apply -f "$WORK/pods.yaml" >/dev/null
  for ((tries = 0; ; tries++)); do
    phases=$("${KUBECTL[@]}" get pods "${pods[@]}" -o jsonpath='{range .items[*]}{.status.phase} {end}')
    [[ $phases == *Pending* || $phases == *Running* || -z ${phases// /} ]] || break
    now
    if ((NOW - began > TIMEOUT * 1000)); then
      "${KUBECTL[@]}" describe pods "${pods[@]}" | grep -A 12 '^Events:' | sed 's/^/    /' >&2 || true
      fail "The pods do not end; their events stand above."
    fi
    ((tries % 30)) || say "running each platform by its own digest …"
    sleep 0.3
  done
  for i in "${!NAMES[@]}"; do
    command_line "kubectl logs ${pods[i]}    $PLAIN$DIM# ${DIGESTS[i]:0:19}… on $("${KUBECTL[@]}" get pod "${pods[i]}" -o jsonpath='{.spec.nodeName}')"
    "${KUBECTL[@]}" logs "${pods[i]}" | sed "s/^/    $GREEN/; s/\$/$PLAIN/"
  done
  [[ $phases != *Failed* ]] || fail "A platform does not run: $phases"
}

# prove_untagged IMAGE:TAG: that there is no such tag.
prove_untagged() {
  command_line "skopeo inspect --raw docker://$1"
  if raw "$1" >/dev/null 2>"$LOGS/skopeo.log"; then fail "$1 is there, though a platform has failed."; fi
  grep -o 'manifest unknown.*\|name unknown.*\|msg=.*' "$LOGS/skopeo.log" | tail -n 1 | cut -c 1-200 | sed "s/^/    $DIM/; s/\$/$PLAIN/" || true
  good "nothing was tagged: an index with a platform missing is never published"
}
