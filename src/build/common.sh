# What both scripts begin with. The exit codes stand in ExitCause.
set -eu
set -o pipefail
export LC_ALL=C
umask 022

fail() {
  echo "error: $2"
  exit "$1"
}

# A folder at the top of a volume. Volumes hand their group on to what is made in them, and every folder in the image
# would show it.
folder() {
  mkdir -p "$1"
  chmod g-s "$1"
}

