//! The CEL rules of the schema. Each says in its message what to write instead; each has a case in
//! `tests/schema.rs` that the real API server refuses.

use kube::core::{Message, Rule};

const OPERATING_SYSTEMS: &str = "['linux', 'windows', 'darwin', 'freebsd', 'openbsd', 'netbsd', 'solaris', \
     'illumos', 'aix', 'plan9', 'android', 'wasi', 'wasip1']";

const ARCHITECTURES: &str = "['amd64', 'arm64', 'arm', '386', 'ppc64le', 'ppc64', 's390x', 'riscv64', \
     'mips64le', 'mips64', 'mipsle', 'mips', 'loong64', 'wasm', 'x86_64', 'aarch64']";

/// Other people's names of architectures, for the suggestion in the message only.
const ARCHITECTURE_ALIASES: &str = "{'x64': 'amd64', 'x86-64': 'amd64', 'x86': '386', 'i386': '386', 'i686': '386', \
     'armhf': 'arm/v7', 'armv7': 'arm/v7', 'armv7l': 'arm/v7', 'armv6': 'arm/v6', 'armv6l': 'arm/v6', \
     'armv8': 'arm64', 'ppc': 'ppc64le', 'powerpc64le': 'ppc64le', 'ppc64el': 'ppc64le', 's390': 's390x', \
     'z': 's390x', 'riscv': 'riscv64', 'mips64el': 'mips64le', 'loongarch64': 'loong64'}";

/// A platform without an image needs something that builds it.
pub fn build_where_no_image() -> Rule {
    Rule::new("has(self.build) || self.platforms.all(p, has(p.image))")
        .message("a platform without an image is built: write spec.build, or give every platform an image")
}

/// No two entries may mean the same platform.
pub fn platforms_distinct() -> Rule {
    let normal = |name: &str| {
        format!(
            "({name}.platform.lowerAscii() + '/').replace('/x86_64/', '/amd64/').replace('/aarch64/', '/arm64/')\
             .replace('/arm64/v8/', '/arm64/').replace('/amd64/v1/', '/amd64/').replace('/arm/v7/', '/arm/')"
        )
    };
    Rule::new(format!("self.all(p, self.exists_one(q, {} == {}))", normal("p"), normal("q"))).message(
        "two entries are for the same platform; keep one \
         (linux/arm64/v8 is linux/arm64, linux/arm/v7 is linux/arm, x86_64 is amd64, aarch64 is arm64)",
    )
}

/// `target.repository` carries neither tag nor digest.
pub fn repository_without_tag() -> Rule {
    Rule::new("!self.contains('@') && !self.matches('(^|/)[^/]*[^/:0-9][^/]*:[^/]*$|/[^/]*:[^/]*$')")
        .message("write the repository without tag and digest; the tags stand in target.tags")
}

/// `target.repository` has the form of the distribution specification.
pub fn repository_form() -> Rule {
    Rule::new(
        "self.contains('@') || self.matches('^([a-zA-Z0-9.-]+(:[0-9]+)?|\\\\[[0-9a-fA-F:]+\\\\](:[0-9]+)?)\
         (/[a-z0-9]+((\\\\.|_|__|-+)[a-z0-9]+)*)+(:.*)?$')",
    )
    .message(
        "write registry/repository in lower case, for example registry.example.com/team-a/web \
         (Docker Hub: docker.io/library/web)",
    )
}

/// Tags have the form of the distribution specification.
pub fn tags_form() -> Rule {
    Rule::new("self.all(t, t.matches('^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$'))").message(
        "a tag has letters, digits, '_', '.', '-', at most 128 of them, and does not begin with '.' or '-'",
    )
}

/// A platform is two or three words with slashes between.
pub fn platform_form() -> Rule {
    Rule::new("self.matches('^[a-zA-Z0-9]+/[a-zA-Z0-9_-]+(/[a-zA-Z0-9.]+)?$')").message(
        "a platform is os/architecture or os/architecture/variant, for example linux/arm64 or linux/arm/v7",
    )
}

/// The os is one that images exist for.
pub fn platform_os() -> Rule {
    Rule::new(format!("!self.contains('/') || self.lowerAscii().split('/')[0] in {OPERATING_SYSTEMS}")).message(
        Message::Expression(format!(
            "\"unknown os '\" + self.split('/')[0] + \"'\" + \
             ({OPERATING_SYSTEMS}.exists(k, k.startsWith(self.lowerAscii().substring(0, self.size() < 2 ? self.size() : 2))) ? \
             \"; did you mean \" + {OPERATING_SYSTEMS}.filter(k, k.startsWith(self.lowerAscii().substring(0, 2))).join(' or ') + '?' : \
             \"; known: linux, windows, darwin, freebsd\")"
        )),
    )
}

/// The architecture is one that images exist for.
pub fn platform_architecture() -> Rule {
    let architecture = "self.lowerAscii().split('/')[1]";
    let prefix =
        format!("{architecture}.substring(0, {architecture}.size() < 3 ? {architecture}.size() : 3)");
    Rule::new(format!("!self.contains('/') || {architecture} in {ARCHITECTURES}")).message(Message::Expression(format!(
        "\"unknown architecture '\" + {architecture} + \"'\" + \
         ({architecture} in {ARCHITECTURE_ALIASES} ? \"; did you mean \" + {ARCHITECTURE_ALIASES}[{architecture}] + '?' : \
         {ARCHITECTURES}.exists(k, k.startsWith({prefix})) ? \
         \"; did you mean \" + {ARCHITECTURES}.filter(k, k.startsWith({prefix})).join(' or ') + '?' : \
         \"; known: amd64, arm64, arm, 386, ppc64le, s390x, riscv64, mips64le, loong64\")"
    )))
}

/// A reference without blanks.
pub fn image_form() -> Rule {
    Rule::new("self.matches('^[a-zA-Z0-9][a-zA-Z0-9._:/@+\\\\[\\\\]-]*$')")
        .message("write an image reference such as ghcr.io/acme/web:1.4.2 or ghcr.io/acme/web@sha256:…")
}

/// A context has one origin.
pub fn exactly_one_context() -> Rule {
    Rule::new("[has(self.git), has(self.configMap), has(self.inline)].filter(x, x).size() == 1")
        .message("give exactly one of git, configMap and inline")
}

/// A path that stays within the context.
pub fn relative_path(field: &str) -> Rule {
    Rule::new("!self.startsWith('/') && !self.startsWith('-') && !self.split('/').exists(s, s == '..')")
        .message(
            format!("{field} is a path within the context: relative, without '..', not beginning with '-'")
                .as_str(),
        )
}

/// A sub-path that can stand in BuildKit's `url#commit:subdir`.
pub fn sub_path_form() -> Rule {
    Rule::new("!self.matches('[:#?\\\\s]')").message("subPath may not hold ':', '#', '?' or blanks")
}

/// Build arguments have the names of shell variables.
pub fn argument_names() -> Rule {
    Rule::new("self.all(k, k.matches('^[A-Za-z_][A-Za-z0-9_]{0,127}$'))")
        .message("a build argument's name has letters, digits and '_' and does not begin with a digit")
}

/// A duration as Go writes it, more than none.
pub fn duration_positive(field: &str) -> Rule {
    Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s')")
        .message(
            format!("{field} is a duration of at least one second, for example 90s, 45m or 1h30m").as_str(),
        )
}

/// git over http and https only.
pub fn git_url_scheme() -> Rule {
    Rule::new("self.matches('^https?://[^/\\\\s#?]+/[^\\\\s#?]*$')")
        .message("write an http:// or https:// address of a repository, without '#' and '?'; ref, commit and subPath have fields of their own")
}

/// Credentials never stand in a spec.
pub fn git_url_without_credentials() -> Rule {
    Rule::new("!self.matches('^[a-z+]+://[^/]*@')").message(
        "the address holds credentials, which everyone who can read this object could see; remove them",
    )
}

/// A ref name as git accepts it, and never an option.
pub fn git_ref_form() -> Rule {
    Rule::new(
        "self.matches('^[A-Za-z0-9_][A-Za-z0-9_./@+-]*$') && !self.contains('..') && !self.contains('@{')",
    )
    .message("ref is a branch, a tag or a full name such as refs/heads/main")
}

/// A full commit.
pub fn git_commit_form() -> Rule {
    Rule::new("self.matches('^([0-9a-f]{40}|[0-9a-f]{64})$')")
        .message("commit is the full commit hash, 40 or 64 hexadecimal digits in lower case; a branch or tag goes into ref")
}

/// The platform alone decides os and architecture.
pub fn node_selector_free_of_platform() -> Rule {
    Rule::new("!self.exists(k, k in ['kubernetes.io/arch', 'kubernetes.io/os', 'beta.kubernetes.io/arch', 'beta.kubernetes.io/os'])")
        .message("remove kubernetes.io/arch and kubernetes.io/os: the platform sets them")
}

/// Jobs and pods carry the name in a label.
pub fn name_fits_a_label() -> Rule {
    Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name may have at most 63 characters, for it becomes a label of the build's Jobs")
}
