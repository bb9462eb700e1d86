# Brings a commit of a git repository to /context/files. Alone in its pod it has git's credentials, in /git. Whatever
# the repository holds is data: nothing of it is run.

host_of() { printf '%s' "$1" | sed 's|^\([a-z]*://[^/]*\).*|\1|'; }

# The first of these keys of the Secret that has more than space, and nothing if none has; as the operator reads them,
# without the line's end that editors and `echo` leave.
key_of() {
  for key in "$@"; do
    if [ -f "/git/$key" ] && grep -q '[^[:space:]]' "/git/$key"; then
      echo "$key"
      return
    fi
  done
}

text_of() {
  awk '{ text = text (NR > 1 ? "\n" : "") $0 } END { sub(/[\r\n]+$/, "", text); printf "%s", text }' "/git/$1"
}

# Credentials are bound to scheme, host and port: neither another host of a submodule nor one that a server points to
# gets them. Values go into files only, for arguments and environments are seen by others.
configure() {
  export HOME="$work/home" GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL="$work/config" GIT_TERMINAL_PROMPT=0
  export GIT_ALLOW_PROTOCOL=http:https:ssh
  mkdir -p "$HOME"
  cat >"$work/config" <<END
[core]
	hooksPath = /dev/null
	fsmonitor = false
[init]
	templateDir = ""
[advice]
	detachedHead = false
[http]
	lowSpeedLimit = 1000
	lowSpeedTime = 60
[fetch]
	fsckObjects = false
END
  host=$(host_of "$GIT_URL")
  case "$host" in
  ssh://*) configure_ssh ;;
  *) configure_http ;;
  esac
}

configure_http() {
  authority=$(key_of ca.crt caFile)
  if [ -n "$authority" ]; then
    # Besides the authorities of the system.
    cat /etc/ssl/certs/ca-certificates.crt "/git/$authority" >"$work/authorities" 2>/dev/null || true
    printf '[http "%s"]\n\tsslCAInfo = %s\n' "$host" "$work/authorities" >>"$work/config"
  fi
  bearer=$(key_of bearerToken)
  user=$(key_of username)
  # A password is nobody's without a name; beside an ssh key it is that key's.
  password=$(key_of token ${user:+password})
  [ -n "$bearer$password" ] || return 0
  case "$host" in
  http://*) [ -n "${GIT_PLAIN_HTTP-}" ] ||
    fail 81 "$GIT_URL: credentials are not sent where everyone reads them; use https" ;;
  esac
  if [ -n "$bearer" ]; then
    # git sends a header of its own to wherever it is redirected.
    printf '[http "%s"]\n\tfollowRedirects = false\n\textraHeader = "Authorization: Bearer %s"\n' \
      "$host" "$(text_of bearerToken | sed 's/[\\"]/\\&/g')" >>"$work/config"
    return
  fi
  name=x-access-token
  [ -z "$user" ] || name=$(text_of username)
  printf 'username=%s\npassword=%s\n' "$name" "$(text_of "$password")" >"$work/answer"
  printf '#!/bin/sh\n[ "$1" != get ] || cat "%s"\n' "$work/answer" >"$work/credentials"
  chmod 0700 "$work/credentials"
  printf '[credential "%s"]\n\thelper = %s\n' "$host" "$work/credentials" >>"$work/config"
}

configure_ssh() {
  identity=$(key_of identity ssh-privatekey)
  [ -n "$identity" ] || fail 81 "the Secret for $GIT_URL has neither identity nor ssh-privatekey"
  [ -n "$(key_of known_hosts)" ] || fail 81 "the Secret for $GIT_URL has no known_hosts; ssh-keyscan prints it"
  tr -d '\r' </git/known_hosts >"$work/known_hosts"
  # ssh refuses a key that others may read, one whose last line has no end, and lines that end as on Windows.
  { text_of "$identity" | tr -d '\r'; echo; } >"$work/key"
  chmod 0400 "$work/key"
  batch=yes
  if [ -n "$(key_of password)" ]; then
    text_of password >"$work/passphrase"
    printf '#!/bin/sh\ncat "%s"\n' "$work/passphrase" >"$work/askpass"
    chmod 0700 "$work/askpass"
    export SSH_ASKPASS="$work/askpass" SSH_ASKPASS_REQUIRE=force
    batch=no
  fi
  export GIT_SSH_VARIANT=ssh GIT_SSH_COMMAND="ssh -F /dev/null -i $work/key -o IdentitiesOnly=yes \
-o IdentityAgent=none -o BatchMode=$batch -o NumberOfPasswordPrompts=1 -o PreferredAuthentications=publickey \
-o StrictHostKeyChecking=yes -o UserKnownHostsFile=$work/known_hosts -o GlobalKnownHostsFile=/dev/null \
-o ConnectTimeout=30 -o ServerAliveInterval=15"
}

# Runs git, and of what it says keeps the words for `explain`.
run_git() {
  git "$@" >"$work/said" 2>&1 || return 1
}

# Ends with the cause behind git's words.
explain() {
  words=$(grep -v -e '^hint:' -e '^Cloning into' -e '^Submodule ' "$work/said" | tail -n 5 | tr -d '\r' | tr '\n' ' ')
  words=${words% }
  words="$1: ${words:-git failed}"
  # The address may hold any word.
  case "$(printf '%s' "$words" | awk -v address="$GIT_URL" '{
    while (at = index($0, address)) $0 = substr($0, 1, at - 1) substr($0, at + length(address))
    print
  }')" in
  *"Host key verification failed"* | *"REMOTE HOST IDENTIFICATION HAS CHANGED"*)
    fail 74 "$words; known_hosts of the Secret has no such key for the host" ;;
  *"certificate"*) fail 74 "$words; a private authority belongs into ca.crt of the Secret" ;;
  *"Authentication failed"* | *"could not read Username"* | *"could not read Password"* | *"Permission denied"* | \
    *"returned error: 401"* | *"returned error: 403"* | *"Access denied"* | *"Load key"*)
    fail 74 "$words" ;;
  *"not found"* | *"returned error: 404"* | *"does not appear to be a git repository"* | *"not our ref"* | \
    *"does not exist"* | *"did not contain"*)
    fail 68 "$words" ;;
  esac
  fail 73 "$words"
}

# Not every server hands out a commit that is no branch's last.
fetch() {
  echo "fetching $GIT_COMMIT of $GIT_URL"
  run_git fetch --quiet --no-tags --depth=1 origin "$GIT_COMMIT" && return
  case "$(cat "$work/said")" in
  *"not our ref"* | *"unadvertised object"* | *"shallow"* | *"couldn't find remote ref"*) ;;
  *) explain "$GIT_URL" ;;
  esac
  echo "the server does not give single commits; fetching all branches and tags"
  run_git fetch --quiet origin '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*' || explain "$GIT_URL"
  run_git cat-file -e "$GIT_COMMIT^{commit}" || fail 68 "$GIT_URL has no commit $GIT_COMMIT on any branch or tag"
}

submodules() {
  [ -f .gitmodules ] || return 0
  echo "fetching submodules"
  run_git submodule update --init --recursive --depth=1 && return
  # Again without a depth, for servers that do not give single commits, and without what the first attempt has cloned: a
  # shallow clone stays one.
  run_git submodule deinit --force --all || explain "submodules of $GIT_URL"
  rm -rf .git/modules
  run_git submodule update --init --recursive || explain "submodules of $GIT_URL"
}

main() {
  work=$(mktemp -d)
  configure
  folder /context/files
  cd /context/files
  format=sha1
  [ "${#GIT_COMMIT}" -ne 64 ] || format=sha256
  run_git init --quiet --object-format="$format" . || explain "git init"
  run_git remote add origin "$GIT_URL" || explain "$GIT_URL"
  fetch
  run_git checkout --quiet --force --detach "$GIT_COMMIT" || explain "$GIT_URL"
  submodules
  epoch=$(git log -1 --format=%ct)
  [ "${GIT_KEEP_DIR-}" = true ] || find . -name .git -prune -exec rm -rf {} +
  # The same commit has the same times, whenever and wherever it is fetched.
  find . -name .git -prune -o -exec touch -h -d "@$epoch" {} +
  echo "$epoch" >/context/epoch
  enter_sub_path
}

# A link in the repository must not lead to anything outside of it, such as the credentials.
enter_sub_path() {
  [ -n "${GIT_SUB_PATH-}" ] || return 0
  [ -d "$GIT_SUB_PATH" ] || fail 68 "$GIT_URL has no folder $GIT_SUB_PATH at $GIT_COMMIT"
  folder=$(cd "$GIT_SUB_PATH" && pwd -P)
  case "$folder" in
  "$(pwd -P)") return 0 ;;
  "$(pwd -P)"/*) ;;
  *) fail 68 "$GIT_SUB_PATH leads out of the repository $GIT_URL" ;;
  esac
  mv "$folder" /context/folder
  cd /
  rm -rf /context/files
  mv /context/folder /context/files
}

trap 'exit 143' TERM INT
{ main 2>&1 | redact; } &
wait "$!"
