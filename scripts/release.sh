#!/usr/bin/env bash
# Makes everything that a release consists of below one folder, from an image that exists. It pushes nothing.
#
#   scripts/release.sh IMAGE [FOLDER]
#
# IMAGE      the image of this version: an OCI layout as an archive (.tar), or a reference in a registry
# FOLDER     target/release-artifacts unless given; what is in it goes, so nothing that is read may lie there
#
# PROGRAMS=…          a folder with programs of other systems, for krew: multiarch_darwin_arm64, …
# RELEASE_URL=…       where the files will be downloaded from; the project's releases unless given
# MULTIARCH, HELM, AUDITABLE2CDX=…   the programs, where they are not in the PATH
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
MULTIARCH=${MULTIARCH:-multiarch} HELM=${HELM:-helm} AUDITABLE2CDX=${AUDITABLE2CDX:-auditable2cdx}
CHART=charts/multiarch-operator
VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
URL=${RELEASE_URL:-https://github.com/multiarch-operator/multiarch-operator/releases/download/v$VERSION}

fail() {
  echo "release: $*" >&2
  exit 1
}

# What is said of a version in the changelog.
notes() {
  awk -v heading="## [$VERSION]" 'index($0, heading) == 1 {on = 1; next} /^## |^\[.*\]: / {on = 0} on' CHANGELOG.md
}

# Whether a file or folder is neither the folder of the release nor below it.
is_apart() { # PATH
  local out
  out=$(realpath --canonicalize-missing "$OUT")/
  [[ $out != // && $(realpath "$1")/ != "$out"* ]]
}

# The archive always has the same bytes for the same files.
archive() { # ARCHIVE FOLDER
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --create --directory "$2" . | gzip --no-name --best >"$1"
}

# A blob of the image.
blob() { # DIGEST
  tar --extract --to-stdout --file "$LAYOUT" "blobs/${1/:/\/}"
}

# The image as a layout, its platforms' programs, and what they are made of.
image() {
  LAYOUT=$OUT/multiarch-operator_v$VERSION.oci.tar
  case $1 in
  *.tar) cp "$1" "$LAYOUT" ;;
  *) "$MULTIARCH" index export "$1" "$LAYOUT" ;;
  esac
  local index digest platform
  index=$(tar --extract --to-stdout --file "$LAYOUT" index.json | jq -er '.manifests | if length == 1 then .[0].digest else error("not one image") end') ||
    fail "$1 is not a layout of one image"
  while read -r platform digest; do
    program "$platform" "$digest"
  done < <(blob "$index" | jq -r '.manifests[] | select(.platform.os == "linux") | "\(.platform.os)_\(.platform.architecture) \(.digest)"')
  for platform in linux_amd64 linux_arm64; do
    test -f "$WORK/programs/multiarch_$platform" || fail "$1 has no image for ${platform/_//}"
  done
}

program() { # PLATFORM DIGEST
  local layer version
  version=$(blob "$(blob "$2" | jq -r .config.digest)" | jq -r '.config.Labels["org.opencontainers.image.version"]')
  test "$version" = "$VERSION" || fail "the image for ${1/_//} is labelled $version, and this is $VERSION"
  layer=$(blob "$2" | jq -er '.layers | if length == 1 then .[0].digest else error("not one layer") end') ||
    fail "the image for ${1/_//} is not one that the Dockerfile makes"
  blob "$layer" | tar --extract --gzip --to-stdout multiarch >"$WORK/programs/multiarch_$1"
  # CycloneDX, of the list of crates that cargo auditable has put into the program.
  "$AUDITABLE2CDX" "$WORK/programs/multiarch_$1" >"$OUT/multiarch_v${VERSION}_$1.cdx.json" ||
    fail "the program for ${1/_//} does not say what it is made of"
}

# An archive for each program, and the manifest with their sums; platforms without a program are left out.
krew() {
  local program platform archive
  for program in "$WORK"/programs/multiarch_*; do
    platform=${program##*/multiarch_}
    archive=multiarch_v${VERSION}_$platform.tar.gz
    mkdir "$WORK/$platform"
    cp LICENSE "$WORK/$platform/"
    install -m 755 "$program" "$WORK/$platform/multiarch"
    archive "$OUT/$archive" "$WORK/$platform"
    sha256sum "$OUT/$archive" | cut -d ' ' -f 1 >"$WORK/sums/$archive"
  done
  awk -v url="$URL" -v sums="$WORK/sums" '
    /^#/ {next}
    /^  - selector:/ {flush(); block = ""; known = 0; within = 1}
    /^ *uri:/ {
      file = $2; sub(".*/", "", file)
      known = (getline sum < (sums "/" file)) > 0
      sub("uri:.*", "uri: " url "/" file)
    }
    /^ *sha256:/ {sub("sha256:.*", "sha256: " sum)}
    within {block = block $0 "\n"; next}
    {print}
    END {flush()}
    function flush() {if (within && known) printf "%s", block}
  ' config/krew/multiarch.yaml >"$OUT/multiarch.yaml"
}

main() {
  test $# -ge 1 || fail "which image? make image makes one; see scripts/release.sh"
  local source=$1 tool
  for tool in jq "$MULTIARCH" "$HELM" "$AUDITABLE2CDX"; do
    command -v "$tool" >/dev/null || fail "there is no $tool; make release brings all but jq"
  done
  OUT=${2:-target/release-artifacts}
  local read
  for read in "$source" "${PROGRAMS:-}" "$PWD"; do
    test ! -e "$read" || is_apart "$read" || fail "$read lies in $OUT, and what is in there goes; write another folder"
  done
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
  mkdir -p "$WORK/programs" "$WORK/sums"
  rm -rf "$OUT"
  mkdir -p "$OUT"
  test -z "${PROGRAMS:-}" || cp "$PROGRAMS"/multiarch_* "$WORK/programs/"

  notes >"$OUT/notes.md"
  grep -q '[^[:space:]]' "$OUT/notes.md" || fail "CHANGELOG.md says nothing of $VERSION"
  image "$source"
  krew
  "$MULTIARCH" crd >"$OUT/multiarch-operator_v$VERSION.crds.yaml"
  "$HELM" package "$CHART" --version "$VERSION" --app-version "$VERSION" --destination "$OUT" >/dev/null
  (cd "$OUT" && sha256sum -- * >"$WORK/SHA256SUMS" && mv "$WORK/SHA256SUMS" .)
  echo "multiarch-operator $VERSION in $OUT; nothing was pushed:"
  (cd "$OUT" && du --apparent-size --human-readable -- *)
}

main "$@"
