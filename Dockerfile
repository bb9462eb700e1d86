# The operator's image: one static program and what it reads. Images for linux/amd64 and linux/arm64 have been built and run;
# for linux/ppc64le and linux/s390x there are recipes that nobody has built an image by.
# Each platform is cross-compiled on the platform of the builder; nothing is emulated.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg REVISION=$(git rev-parse HEAD) .
#
# There is no `# syntax` line: what BuildKit brings along is enough, and one thing less is fetched. The stages `vendor`
# and `toolchain` are what the network is needed for; a named context takes the place of each (docs/releasing.md).

# The sources of the dependencies, one folder a crate, as `cargo vendor --versioned-dirs` writes them. Empty: cargo
# fetches them.
FROM --platform=$BUILDPLATFORM scratch AS vendor

# Rust for every platform, a C compiler for each, and cargo-auditable, which writes into the program what it is made of.
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.96.0-slim-bookworm AS toolchain
RUN <<END
set -eu
native=$(dpkg --print-architecture)
packages=
for cross in amd64:x86-64 arm64:aarch64 ppc64el:powerpc64le s390x:s390x; do
  test "${cross%:*}" = "$native" || packages="$packages gcc-${cross#*:}-linux-gnu libc6-dev-${cross%:*}-cross"
done
apt-get update
apt-get install --yes --no-install-recommends $packages
rm -rf /var/lib/apt/lists/*
rustup target add \
  x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu powerpc64le-unknown-linux-gnu s390x-unknown-linux-gnu
cargo install --locked --version 0.7.7 cargo-auditable
END

FROM toolchain AS build
# dist, or dev for an image that is built sooner, is larger and is not optimised.
ARG PROFILE=dist
ARG TARGETARCH
# The commit, for the metric multiarch_build_info; without it that says unknown.
ARG REVISION
# Not where the toolchain keeps its programs, so that it is the same with every toolchain.
ENV CARGO_HOME=/cargo CARGO_INCREMENTAL=0
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY src src
RUN --mount=type=bind,from=vendor,target=/vendor \
    --mount=type=cache,id=multiarch-registry,target=/cargo/registry \
    --mount=type=cache,id=multiarch-target,target=/target <<END
set -eu
case $TARGETARCH in
  amd64) arch=x86_64 ;;
  arm64) arch=aarch64 ;;
  ppc64le) arch=powerpc64le ;;
  s390x) arch=s390x ;;
  *) echo "there is no recipe for linux/$TARGETARCH; there is for amd64, arm64, ppc64le and s390x" >&2; exit 1 ;;
esac
triple=$arch-unknown-linux-gnu
unset MULTIARCH_REVISION
if test -n "${REVISION:-}"; then
  export MULTIARCH_REVISION="$REVISION"
fi
# Static, so that the image needs no C library; no path of the builder in the program.
set -- --config "target.$triple.linker='$arch-linux-gnu-gcc'" --config "target.$triple.rustflags=[
  '-Ctarget-feature=+crt-static', '--remap-path-prefix=/cargo/registry/src=/crates', '--remap-path-prefix=/vendor=/crates']"
if test -n "$(ls /vendor)"; then
  set -- "$@" --offline --config "source.crates-io.replace-with='vendor'" --config "source.vendor.directory='/vendor'"
fi
cargo auditable build "$@" --locked --bin multiarch --profile "$PROFILE" --target "$triple" --target-dir "/target/$TARGETARCH"
folder=$PROFILE
test "$PROFILE" != dev || folder=debug
mkdir /out
"$arch-linux-gnu-strip" -o /out/multiarch "/target/$TARGETARCH/$triple/$folder/multiarch"
if "$arch-linux-gnu-readelf" --program-headers /out/multiarch | grep INTERP; then
  echo "the program is not static: it would not start in an empty image" >&2
  exit 1
fi
END

# All files of the image, with one time, so that the same sources make the same layer.
FROM build AS files
ARG SOURCE_DATE_EPOCH=0
COPY LICENSE /
RUN <<END
set -eu
mkdir -p /image/etc/ssl/certs /image/licenses /image/tmp
cp /out/multiarch /image/multiarch
cp /LICENSE /image/licenses/LICENSE
cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt
echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' > /image/etc/passwd
echo 'nonroot:x:65532:' > /image/etc/group
# Without it the C library asks the name servers before it looks at what Kubernetes writes to /etc/hosts.
echo 'hosts: files dns' > /image/etc/nsswitch.conf
chmod 755 /image/multiarch
chmod 644 /image/licenses/LICENSE /image/etc/ssl/certs/ca-certificates.crt
# For `multiarch index import -`, which puts what comes through a pipe there.
chmod 1777 /image/tmp
find /image -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
END

FROM scratch AS operator
ARG VERSION=0.1.0
ARG REVISION
LABEL org.opencontainers.image.title="multiarch-operator" \
      org.opencontainers.image.description="A Kubernetes operator that builds, verifies and publishes multi-architecture container images" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/multiarch-operator/multiarch-operator" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=files /image /
USER 65532:65532
ENTRYPOINT ["/multiarch"]
