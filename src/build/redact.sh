# Everything that a container prints becomes its pod's log and may become the message of a status. `redact` prints its
# input without the values of the files that $SECRET_FILES names, each line of them on its own.

# How a value may be printed: as it is, in a URL, in JSON, in hexadecimal digits, and in base64 of either alphabet, alone,
# with the line break that echo adds, or within something longer, where it begins at any of three places of a group.
secret_forms() {
  awk '
    BEGIN {
      for (i = 1; i < 256; i++) code[sprintf("%c", i)] = i
      alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    }
    function digit(number) { return substr(alphabet, number % 64 + 1, 1) }
    function base64(text,    out, i, rest, group) {
      for (i = 1; i <= length(text); i += 3) {
        rest = length(text) - i
        group = code[substr(text, i, 1)] * 65536 + code[substr(text, i + 1, 1)] * 256 + code[substr(text, i + 2, 1)]
        out = out digit(int(group / 262144)) digit(int(group / 4096))
        out = out (rest > 0 ? digit(int(group / 64)) : "=") (rest > 1 ? digit(group) : "=")
      }
      return out
    }
    function whole_groups(text) { return base64(substr(text, 1, length(text) - length(text) % 3)) }
    function escaped(text, form,    out, i, character) {
      for (i = 1; i <= length(text); i++) {
        character = substr(text, i, 1)
        out = out (character ~ /[A-Za-z0-9._~-]/ ? character : sprintf(form, code[character]))
      }
      return out
    }
    function hexadecimal(text,    out, i) {
      for (i = 1; i <= length(text); i++) out = out sprintf("%02x", code[substr(text, i, 1)])
      return out
    }
    # Plainly, with slashes as PHP has them, and as Go has what HTML would take for its own.
    function tell_json(text,    slashes) {
      gsub(/[\\"]/, "\\\\&", text)
      gsub(/\t/, "\\t", text)
      print text
      slashes = text
      gsub(/\//, "\\/", slashes)
      print slashes
      gsub(/&/, "\\u0026", text)
      gsub(/</, "\\u003c", text)
      gsub(/>/, "\\u003e", text)
      print text
    }
    function tell_base64(text) {
      print text
      gsub(/\+/, "-", text)
      gsub(/\//, "_", text)
      print text
      sub(/=+$/, "", text)
      print text
    }
    function tell(value) {
      if (length(value) < 6) return
      print value
      print escaped(value, "%%%02X")
      print escaped(value, "%%%02x")
      tell_json(value)
      print hexadecimal(value)
      print toupper(hexadecimal(value))
      tell_base64(base64(value))
      tell_base64(base64(value "\n"))
      tell_base64(whole_groups(value))
      tell_base64(whole_groups(substr(value, 2)))
      tell_base64(whole_groups(substr(value, 3)))
    }
    { sub(/\r$/, ""); tell($0) }
    # Of NAME=value and of name: value, the value too.
    match($0, /^[ \t"{]*[^ \t="]+"? *(=|: ) *"?/) {
      value = substr($0, RLENGTH + 1)
      sub(/[",}]+$/, "", value)
      tell(value)
    }
    # Of .netrc, settings.xml, an address with a password and their like: whatever stands alone in them and is long.
    {
      words = split($0, word, "[ \t\"\047=:@<>/,;{}]+")
      if (words > 1) for (i = 1; i <= words; i++) if (length(word[i]) >= 8) tell(word[i])
    }
  '
}

# The secrets of a docker configuration, one a line. An `auth` holds a name and, behind a colon, a password.
registry_passwords() {
  tr ',{}' '\n\n\n' <"$1" | sed -n 's/.*"\([a-z]*\)" *: *"\(.*\)".*/\1 \2/p' | while read -r key value; do
    case "$key" in
    auth)
      echo "$value"
      printf '%s' "$value" | base64 -d 2>/dev/null | cut -d: -f2-
      echo
      ;;
    password | identitytoken | registrytoken) echo "$value" ;;
    esac
  done
}

redact() {
  forms=$(mktemp)
  for file in ${SECRET_FILES-}; do
    [ -f "$file" ] || continue
    case "${file##*/}" in
    known_hosts | ca.crt | caFile | tls.crt | *.pub) continue ;;
    config.json) registry_passwords "$file" | secret_forms ;;
    *)
      # With a last line that has no end too.
      { cat "$file"; echo; } | secret_forms
      base64 <"$file"
      base64 <"$file" | tr -d '\n' | awk '{ print; gsub(/\+/, "-"); gsub(/\//, "_"); print; sub(/=+$/, ""); print }'
      ;;
    esac
  done | awk 'length($0) >= 6 && !known[$0]++ { print length($0), $0 }' | sort -rn | cut -d' ' -f2- >"$forms"
  # The longest first: what is left of a form after a shorter one was taken out would still tell something.
  awk -v forms="$forms" '
    BEGIN {
      while ((getline form < forms) > 0) {
        secret[++count] = form
        beginning[substr(form, 1, 6)]
      }
    }
    # A key has hundreds of forms, and most lines have none of them.
    function suspicious(line,    i) {
      for (i = length(line) - 5; i > 0; i--) if (substr(line, i, 6) in beginning) return 1
      return 0
    }
    function without(line, form,    out, at) {
      while (at = index(line, form)) {
        out = out substr(line, 1, at - 1) "***"
        line = substr(line, at + length(form))
      }
      return out line
    }
    {
      line = $0
      if (count < 50 || suspicious(line))
        for (i = 1; i <= count; i++) if (index(line, secret[i])) line = without(line, secret[i])
      print line
      fflush()
    }
  '
}
