# shellcheck shell=bash
# What the demo says: headings, progress of long commands, failures. In place on a terminal, line by line elsewhere.

TTY=0
if [[ -t 1 && ${TERM:-dumb} != dumb ]]; then TTY=1; fi
BOLD='' DIM='' RED='' GREEN='' YELLOW='' BLUE='' PLAIN=''
if [[ $TTY == 1 && -z ${NO_COLOR:-} ]]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' YELLOW=$'\e[33m' BLUE=$'\e[36m' PLAIN=$'\e[0m'
fi
readonly SPINNER=(⠋ ⠙ ⠹ ⠸ ⠼ ⠴ ⠦ ⠧ ⠇ ⠏)
readonly HEARTBEAT=8

say() { printf '  %s\n' "$*"; }
dim() { printf '  %s%s%s\n' "$DIM" "$*" "$PLAIN"; }
good() { printf '  %s✔%s %s\n' "$GREEN" "$PLAIN" "$*"; }
note() { printf '  %s!%s %s\n' "$YELLOW" "$PLAIN" "$*"; }

STEP=0
STEPS=0
heading() {
  STEP=$((STEP + 1))
  printf '\n%s%s[%d/%d] %s%s\n\n' "$BOLD" "$BLUE" "$STEP" "$STEPS" "$*" "$PLAIN"
}

# A command that the person at the terminal could type.
command_line() { printf '  %s$ %s%s\n' "$BOLD" "$*" "$PLAIN"; }

# Prints a file, indented and dimmed.
show() { sed "s/^/    $DIM/; s/\$/$PLAIN/" "$1"; }

# The end of a log.
show_end() {
  [[ -s $1 ]] || return 0
  printf '\n  %sThe end of %s:%s\n' "$BOLD" "${1#"$ROOT/"}" "$PLAIN" >&2
  tr '\r' '\n' <"$1" | grep -v '^ *Building \[' | grep -v '^ *$' | tail -n "${2:-15}" | cut -c 1-300 | sed 's/^/    /' >&2
}

# fail WHAT [WHAT TO DO…]: the last words of the demo.
fail() {
  trap - ERR
  terminal_restore
  printf '\n%s✖ %s%s\n' "$RED" "$1" "$PLAIN" >&2
  shift
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 1
}

# Milliseconds, into NOW.
now() {
  local micros=${EPOCHREALTIME/[.,]/}
  NOW=$((micros / 1000))
}

# duration MILLISECONDS: into DURATION, as people say it.
duration() {
  if (($1 < 60000)); then
    printf -v DURATION '%d.%ds' $(($1 / 1000)) $(($1 % 1000 / 100))
  else
    printf -v DURATION '%dm%02ds' $(($1 / 60000)) $(($1 / 1000 % 60))
  fi
}

columns() {
  COLUMNS_NOW=100
  local size
  if [[ $TTY == 1 ]] && size=$(stty size 2>/dev/null </dev/tty) && [[ ${size##* } -gt 0 ]]; then COLUMNS_NOW=${size##* }; fi
}

# Lines that are drawn again in place must not wrap, or they could not be found again.
terminal_hold() { [[ $TTY == 0 ]] || printf '\e[?25l\e[?7l'; }
terminal_restore() { [[ $TTY == 0 ]] || printf '\e[?25h\e[?7h%s' "$PLAIN"; }

# background COMMAND…: starts it in a process group of its own, into CHILD. It cannot outlive the demo on Linux.
background() {
  local tether=()
  if [[ -z ${UNTETHERED:-} ]] && command -v setpriv >/dev/null; then tether=(setpriv --pdeathsig TERM); fi
  set -m
  "${tether[@]}" "$@" </dev/null &
  CHILD=$!
  set +m
  CHILDREN+=("$CHILD")
}

# stop_group PID: ends a background command with everything that it started.
stop_group() {
  kill -TERM -- "-$1" 2>/dev/null || return 0
  local tries
  for ((tries = 0; tries < 50; tries++)); do
    kill -0 -- "-$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$1" 2>/dev/null || true
}

# follow TITLE LOG HINT COMMAND…: runs a command, its output in a log, and tells all along how far it is; HINT is a
# function that reads the log's end and says so in a few words. Returns the command's status.
follow() {
  local title=$1 log=$2 hint=$3 began heard spin=0 words status=0
  shift 3
  now
  began=$NOW heard=$NOW
  mkdir -p "${log%/*}"
  background "$@" >"$log" 2>&1
  local child=$CHILD
  [[ $TTY == 1 ]] || say "$title …"
  terminal_hold
  while kill -0 "$child" 2>/dev/null; do
    sleep 0.2
    now
    if [[ $TTY == 1 ]]; then
      ((spin % 3)) || words=$("$hint" "$log" || true)
      columns
      duration $((NOW - began))
      printf '\r\e[K  %s%s%s %s  %s%s%s' "$BLUE" "${SPINNER[spin % 10]}" "$PLAIN" "$title  $DURATION" "$DIM" "${words:0:COLUMNS_NOW-${#title}-16}" "$PLAIN"
      spin=$((spin + 1))
    elif ((NOW - heard >= HEARTBEAT * 1000)); then
      heard=$NOW
      duration $((NOW - began))
      say "$title: $DURATION so far, $("$hint" "$log" || true)"
    fi
  done
  wait "$child" || status=$?
  [[ $TTY == 0 ]] || printf '\r\e[K'
  terminal_restore
  now
  duration $((NOW - began))
  if [[ $status == 0 ]]; then good "$title  $DIM$DURATION$PLAIN"; fi
  return "$status"
}

# Hints: what a log's end says of how far its command is.
hint_cargo() { tail -c 2000 "$1" | tr '\r' '\n' | sed -n 's/^ *Building \[[^]]*\] *\([0-9]*\/[0-9]*\): */\1 crates: /p; s/^ *\(Downloa[a-z]* .*\|Updating .*\|Blocking .*\)/\1/p' | tail -n 1; }
hint_last_line() { tail -c 500 "$1" | tr '\r' '\n' | grep -v '^ *$' | tail -n 1; }
