# shellcheck shell=bash
# The live view of one MultiArchImage: `kubectl get --watch` through a template, drawn as a table that stays in place,
# or as one line for each change where there is no terminal.

readonly FIELD=$'\x1f' ROW=$'\x1d' RECORD=$'\x1e'

# One record for each change: the image's own fields, then a row for each platform.
watch_template() {
  local key out
  out="{{with .metadata.generation}}{{.}}{{end}}$FIELD"
  for key in observedGeneration digest readyPlatforms sourceRevision; do out+="{{with .status}}{{with .$key}}{{.}}{{end}}{{end}}$FIELD"; done
  out+='{{with .status}}{{range .conditions}}{{if eq .type "Ready"}}{{.status}}'"$FIELD"'{{.reason}}'"$FIELD"'{{.message}}{{end}}{{end}}{{end}}'
  out+="{{with .status}}{{range .platforms}}$ROW"
  for key in platform phase reason message node digest; do out+="{{with .$key}}{{.}}{{end}}$FIELD"; done
  printf '%s{{end}}{{end}}%s' "$out" "$RECORD"
}

# Reads one record into GENERATION, OBSERVED, DIGEST, COUNT, REVISION, READY, REASON, MESSAGE and the arrays NAMES,
# PHASES, REASONS, MESSAGES, NODES_OF, DIGESTS.
parse_record() {
  local record=${1//$'\n'/ } row rows=()
  record=${record# }
  IFS=$FIELD read -r GENERATION OBSERVED DIGEST COUNT REVISION READY REASON MESSAGE <<<"${record%%"$ROW"*}"
  NAMES=() PHASES=() REASONS=() MESSAGES=() NODES_OF=() DIGESTS=()
  [[ $record == *"$ROW"* ]] || return 0
  IFS=$ROW read -r -a rows <<<"${record#*"$ROW"}"
  for row in "${rows[@]}"; do
    local name phase reason message node digest
    IFS=$FIELD read -r name phase reason message node digest <<<"$row"
    NAMES+=("$name") PHASES+=("$phase") REASONS+=("$reason") MESSAGES+=("$message") NODES_OF+=("$node") DIGESTS+=("$digest")
  done
}

# What the loop below waits for. 0: reached; 1: not yet; 2: it will not come.
until_ready() {
  [[ $OBSERVED == "$GENERATION" ]] || return 1
  case $READY in True) return 0 ;; False) return 2 ;; *) return 1 ;; esac
}
until_settled() {
  local phase
  [[ $OBSERVED == "$GENERATION" && ${#PHASES[@]} -gt 0 ]] || return 1
  for phase in "${PHASES[@]}"; do [[ $phase == Ready || $phase == Failed ]] || return 1; done
}
until_no_node() {
  [[ " ${REASONS[*]} " == *" NoNodeForPlatform "* ]] || return 1
  local i
  for i in "${!PHASES[@]}"; do [[ ${PHASES[i]} == Ready || ${REASONS[i]} == NoNodeForPlatform ]] || return 1; done
}

# 64 hexadecimal digits say no more than 12 to somebody who watches; a Job's name is long enough without its platform.
shorten() {
  SHORT=$1
  while [[ $SHORT =~ (sha256:[0-9a-f]{12})[0-9a-f]{52} ]]; do SHORT=${SHORT/"${BASH_REMATCH[0]}"/"${BASH_REMATCH[1]}"…}; done
}

# watch_image NAME UNTIL [TIMEOUT]: shows the image until the condition holds; explains where it does not come. Says in
# TOOK how many milliseconds it was.
watch_image() {
  local name=$1 until=$2 timeout=${3:-$TIMEOUT} began heard buffer='' part='' outcome=1 spin=0 drawn=0 status stream child
  local -A since=() until_when=() last=()
  now
  began=$NOW heard=$NOW
  NAMES=() GENERATION='' OBSERVED='' READY='' REASON='' MESSAGE='' DIGEST='' COUNT='' REVISION=''
  open_watch "$name"
  terminal_hold
  while true; do
    part='' status=0
    IFS= read -r -d "$RECORD" -t 0.12 -u "$stream" part || status=$?
    buffer+=$part
    if ((status == 0)); then
      parse_record "$buffer"
      buffer=''
      outcome=0
      "$until" || outcome=$?
    elif ((status <= 128)); then
      # The API server ends every watch at some time.
      exec {stream}<&-
      buffer=''
      sleep 0.5
      open_watch "$name"
    fi
    now
    note_changes
    if [[ $TTY == 1 ]]; then draw; fi
    ((outcome == 1)) || break
    if ! kill -0 "$OPERATOR" 2>/dev/null; then
      close_watch
      operator_died
    fi
    if ((NOW - began > timeout * 1000)); then
      close_watch
      timed_out "$name" "$timeout"
    fi
  done
  close_watch
  TOOK=$((NOW - began))
  if [[ $TTY == 0 ]]; then
    duration "$TOOK"
    shorten "$MESSAGE"
    printf '  %7s  %-13s Ready=%s %s: %s\n' "$DURATION" "$COUNT ready" "$READY" "$REASON" "$SHORT"
  fi
  return "$outcome"
}

open_watch() {
  exec {stream}< <(exec "${KUBECTL[@]}" get multiarchimage "$1" --watch -o "go-template=$(watch_template)" 2>>"$LOGS/watch.log")
  child=$!
}

close_watch() {
  kill "$child" 2>/dev/null || true
  exec {stream}<&-
  terminal_restore
}

# Remembers since when a platform is at work, and tells of changes where there is no terminal.
note_changes() {
  local i name state
  for i in "${!NAMES[@]}"; do
    name=${NAMES[i]}
    [[ -n ${since[$name]:-} ]] || since[$name]=$NOW
    case ${PHASES[i]} in
      Ready | Failed) [[ -n ${until_when[$name]:-} ]] || until_when[$name]=$NOW ;;
      *) until_when[$name]='' ;;
    esac
    state="${PHASES[i]}$FIELD${REASONS[i]}$FIELD${MESSAGES[i]}"
    if [[ $TTY == 0 && ${last[$name]:-} != "$state" ]]; then
      last[$name]=$state
      heard=$NOW
      duration $((NOW - began))
      shorten "${MESSAGES[i]}"
      printf '  %7s  %-13s %-10s %s: %s\n' "$DURATION" "$name" "${PHASES[i]}" "${REASONS[i]}" "$SHORT"
    fi
  done
  if [[ $TTY == 0 ]] && ((NOW - heard >= HEARTBEAT * 1000)); then
    heard=$NOW
    duration $((NOW - began))
    shorten "$MESSAGE"
    printf '  %7s  %s\n' "$DURATION" "nothing new; $COUNT platforms are ready; ${REASON:-the operator has said nothing yet}${SHORT:+: $SHORT}"
  fi
}

draw() {
  local i name colour mark text width line lines=()
  columns
  width=$((COLUMNS_NOW - 56))
  ((width > 10)) || width=10
  printf -v line '  %s%-14s %-12s %-12s %7s  %s%s' "$BOLD" PLATFORM PHASE NODE TIME MESSAGE "$PLAIN"
  lines+=("$line")
  for i in "${!NAMES[@]}"; do
    name=${NAMES[i]}
    case ${PHASES[i]} in
      Ready) colour=$GREEN mark=✔ ;;
      Failed) colour=$RED mark=✖ ;;
      Waiting) colour=$YELLOW mark=${SPINNER[spin % 10]} ;;
      *) colour=$BLUE mark=${SPINNER[spin % 10]} ;;
    esac
    duration $((${until_when[$name]:-$NOW} - since[$name]))
    shorten "${MESSAGES[i]}"
    text=$SHORT
    [[ ${REASONS[i]} == "${PHASES[i]}" || ${PHASES[i]} == Ready ]] || text="${REASONS[i]}: $text"
    # The Job's name stands at the end, and goes first where there is no room.
    if ((${#text} > width)); then text=${text% (job/*}; fi
    if ((${#text} > width)); then text="${text:0:width-1}…"; fi
    printf -v line '  %-14s %s%s %-10s%s %-12s %7s  %s%s%s' "$name" "$colour" "$mark" "${PHASES[i]}" "$PLAIN" "${NODES_OF[i]:--}" "$DURATION" "$DIM" "$text" "$PLAIN"
    lines+=("$line")
  done
  case $READY in True) colour=$GREEN ;; False) colour=$RED ;; *) colour=$YELLOW ;; esac
  shorten "$MESSAGE"
  width=$((COLUMNS_NOW - 44))
  text=$SHORT
  if ((${#text} > width)); then text=${text% (job/*}; fi
  if ((width > 10 && ${#text} > width)); then text="${text:0:width-1}…"; fi
  printf -v line '  %s%-14s%s %sReady=%s%s %s %s%s%s' "$BOLD" "${COUNT:--} ready" "$PLAIN" "$colour" "${READY:--}" "$PLAIN" "$REASON" "$DIM" "$text" "$PLAIN"
  lines+=("$line")
  ((drawn == 0)) || printf '\e[%dA' "$drawn"
  printf '\r\e[K%s\n' "${lines[@]}"
  printf '\e[J'
  drawn=${#lines[@]}
  spin=$((spin + 1))
}

operator_died() {
  local status=0
  { wait "$OPERATOR" || status=$?; } 2>/dev/null
  OPERATOR=''
  show_end "$LOGS/operator.log"
  fail "The operator has ended (exit status $status)." "Its whole log: $LOGS/operator.log"
}

timed_out() {
  {
    printf '\n  %sstatus of multiarchimage/%s:%s\n' "$BOLD" "$1" "$PLAIN"
    "${KUBECTL[@]}" get multiarchimage "$1" -o go-template='{{range .status.conditions}}    {{.type}}={{.status}} {{.reason}}: {{.message}}{{"\n"}}{{end}}{{range .status.platforms}}    {{.platform}} {{.phase}} {{.reason}}: {{.message}}{{"\n"}}{{end}}'
    printf '\n  %sJobs, pods and what happened to them:%s\n' "$BOLD" "$PLAIN"
    "${KUBECTL[@]}" get jobs,pods -o wide | sed 's/^/    /'
    "${KUBECTL[@]}" get events --sort-by=.lastTimestamp -o go-template='{{range .items}}    {{.involvedObject.kind}}/{{.involvedObject.name}} {{.reason}}: {{.message}}{{"\n"}}{{end}}' | tail -n 8
  } >&2 || true
  show_end "$LOGS/operator.log" 8
  fail "multiarchimage/$1 is not where it should be after $2 s." "A slow machine? DEMO_TIMEOUT=<seconds> waits longer."
}
