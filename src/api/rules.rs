//! The CEL rules of the schema. Each says in its message what to write instead; each has a case in
//! `tests/schema.rs` that the real API server refuses.

use kube::core::{Message, Rule};

const OPERATING_SYSTEMS: &str = "['linux', 'windows', 'darwin', 'freebsd', 'openbsd', 'netbsd', 'solaris', \
     'illumos', 'aix', 'plan9', 'android', 'wasi', 'wasip1']";

const ARCHITECTURES: &str = "['amd64', 'arm64', 'arm', '386', 'ppc64le', 'ppc64', 's390x', 'riscv64', \
     'mips64le', 'mips64', 'mipsle', 'mips', 'loong64', 'wasm', 'x86_64', 'aarch64']";

/// What somebody who wrote a name beginning like this meant. The first match counts. (The API server's budget for
/// CEL has no room for an edit distance.)
const ARCHITECTURES_MEANT: &[(&str, &str)] = &[
    ("/(x86$|i[3-6]86|ia32|x32|38|x86/)", "386"),
    ("/(am|x|em64|i64|intel|ad)", "amd64"),
    ("/(aa|ar?m_?-?64|armv[89]|a64|am64)", "arm64"),
    ("/armv?6", "arm/v6"),
    ("/(ar?m|amr)", "arm/v7"),
    ("/(pp|power|pc)", "ppc64le"),
    ("/(s3|z|39)", "s390x"),
    ("/ri", "riscv64"),
    ("/mi", "mips64le"),
    ("/lo", "loong64"),
];

/// The same for operating systems.
const OPERATING_SYSTEMS_MEANT: &[(&str, &str)] =
    &[("^(l|gnu)", "linux"), ("^wi", "windows"), ("^(da|mac|os)", "darwin"), ("^(fr|bsd)", "freebsd")];

fn did_you_mean(what: &str, meant: &[(&str, &str)], known: &str) -> Message {
    let choices: String = meant
        .iter()
        .map(|(pattern, name)| {
            format!("self.lowerAscii().matches('{pattern}') ? '; did you mean {name}?' : ")
        })
        .collect();
    Message::Expression(format!("'unknown {what} in ' + self + ({choices}'; known: {known}')"))
}

/// Docker's manifest list has no place for annotations.
pub fn docker_list_without_annotations() -> Rule {
    Rule::new("!has(self.format) || self.format != 'Docker' || !has(self.annotations) || size(self.annotations) == 0")
        .message("a Docker manifest list cannot have annotations; write format: OCI, or leave the annotations out")
}

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
    Rule::new(format!("!self.contains('/') || self.lowerAscii().split('/')[0] in {OPERATING_SYSTEMS}"))
        .message(did_you_mean("os", OPERATING_SYSTEMS_MEANT, "linux, windows, darwin, freebsd"))
}

/// The architecture is one that images exist for.
pub fn platform_architecture() -> Rule {
    let known = "amd64, arm64, arm, 386, ppc64le, s390x, riscv64, mips64le, loong64";
    Rule::new(format!("!self.contains('/') || self.lowerAscii().split('/')[1] in {ARCHITECTURES}"))
        .message(did_you_mean("architecture", ARCHITECTURES_MEANT, known))
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
