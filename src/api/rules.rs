//! The CEL rules of the schema. Each says in its message what to write instead; each has a case in
//! `tests/schema.rs` that the real API server refuses.

use kube::core::{Message, Rule};

/// A port, at most 65535.
const PORT: &str = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})";
/// A part of a repository's path (OCI distribution specification).
const COMPONENT: &str = "[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*";
const TAG: &str = "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}";
/// Names of most objects (RFC 1123 subdomain).
const SUBDOMAIN: &str = "[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*";
/// The part of a label's key after its prefix, and its value.
const WORD: &str = "[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?";

/// What stands before a repository's path: a registry, or the first part of a name on Docker Hub, which has no dot.
fn registry() -> String {
    let label = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?";
    format!(
        "(({label}([.]{label})+|\\\\[[0-9a-fA-F:]+])(:{PORT})?|{label}:{PORT}|[a-z0-9]+((_|__|-+)[a-z0-9]+)*)"
    )
}

fn repository() -> String {
    format!("{}(/{COMPONENT})+", registry())
}

fn image() -> String {
    format!(
        "({}/)?{COMPONENT}(/{COMPONENT})*(:{TAG})?(@(sha256:[0-9a-f]{{64}}|sha512:[0-9a-f]{{128}}))?",
        registry()
    )
}

fn label_key() -> String {
    format!("({SUBDOMAIN}/)?{WORD}")
}

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

/// The target itself is no mirror.
pub fn mirrors_elsewhere() -> Rule {
    Rule::new("!has(self.mirrors) || self.mirrors.all(m, m.repository != self.repository)")
        .message("a mirror is a further repository; take the target itself out of the mirrors")
}

/// What a platform's own tag is made of. Without the architecture two platforms would have one tag.
pub fn platform_tag_form() -> Rule {
    Rule::new(
        "self.contains('{arch}') && self.replace('{tag}', 'x').replace('{os}', 'x').replace('{arch}', 'x').replace('{variant}', 'x')\
         .replace('{-variant}', '-x').matches('^[A-Za-z0-9_][A-Za-z0-9._-]*$')",
    )
    .message(
        "a platform's tag is made of {tag}, {os}, {arch}, {variant} or {-variant} (nothing where there is none), letters, digits, '_', \
         '.' and '-', and has {arch} in it; for example \"{tag}-{os}-{arch}{-variant}\"",
    )
}

/// Registries limit how often they may be asked.
pub fn interval() -> Rule {
    within("10s", "interval is a duration of at least 10s, for example 10m or 1h30m".to_owned())
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
             .replace('/arm64/v8/', '/arm64/').replace('/arm64/v8.0/', '/arm64/').replace('/amd64/v1/', '/amd64/')\
             .replace('/arm/v7/', '/arm/')"
        )
    };
    Rule::new(format!("self.all(p, self.exists_one(q, {} == {}))", normal("p"), normal("q"))).message(
        "two entries are for the same platform; keep one \
         (linux/arm64/v8 is linux/arm64, linux/arm/v7 is linux/arm, x86_64 is amd64, aarch64 is arm64)",
    )
}

/// BuildKit has builders for Linux alone.
pub fn other_systems_not_built_here() -> Rule {
    Rule::new(
        "!has(self.build) || has(self.build.remote) || self.platforms.all(p, has(p.image) || \
         p.platform.lowerAscii().startsWith('linux/') || (has(p.build) && has(p.build.remote)))",
    )
    .message(
        "only linux can be built in the cluster: give a platform of another os an image, or a remote builder by \
         build.remote",
    )
}

/// Only a git commit has a time.
pub fn epoch_of_git() -> Rule {
    Rule::new(
        "!has(self.build) || has(self.build.context.git) || \
         (!(has(self.build.args) && 'SOURCE_DATE_EPOCH' in self.build.args && self.build.args['SOURCE_DATE_EPOCH'] == 'context') && \
         self.platforms.all(p, !(has(p.build) && has(p.build.args) && 'SOURCE_DATE_EPOCH' in p.build.args && \
         p.build.args['SOURCE_DATE_EPOCH'] == 'context')))",
    )
    .message("SOURCE_DATE_EPOCH: context is the time of a git commit, and the context is none; write seconds since 1970")
}

/// `target.repository` carries neither tag nor digest.
pub fn repository_without_tag() -> Rule {
    Rule::new("!self.contains('@') && !self.matches('(^|/)[^/]*[^/:0-9][^/]*:[^/]*$|/[^/]*:[^/]*$')")
        .message("write the repository without tag and digest; the tags stand in target.tags")
}

/// `target.repository` has the form of the distribution specification.
pub fn repository_form() -> Rule {
    Rule::new(format!("self.contains('@') || self.matches('^{}(:[^/]*)?$')", repository())).message(
        "write registry/repository in lower case and without https://, for example registry.example.com/team-a/web \
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

/// The variant is one that the architecture has.
pub fn platform_variant() -> Rule {
    let others = "386|ppc64le|ppc64|s390x|riscv64|mips64le|mips64|mipsle|mips|loong64|wasm";
    Rule::new(format!(
        "!self.matches('^[^/]+/[^/]+/') || self.lowerAscii().matches('/((amd64|x86_64)/v[1-4]|arm/v[5-8]|\
         (arm64|aarch64)/v[89]([.][0-9]{{1,2}})?|({others})/[a-z][a-z0-9]{{0,15}})$') || \
         !(self.lowerAscii().split('/')[1] in {ARCHITECTURES})"
    ))
    .message("unknown variant; known are amd64/v1 to v4, arm/v5 to v8, and arm64/v8, v9 and their minor versions (v8.2)")
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

/// A reference that the operator understands.
pub fn image_form() -> Rule {
    Rule::new(format!("self.matches('^{}$')", image())).message(
        "write an image reference such as ghcr.io/acme/web:1.4.2 or ghcr.io/acme/web@sha256:…, in lower case and without \
         https://",
    )
}

/// A context has one origin.
pub fn exactly_one_context() -> Rule {
    Rule::new("[has(self.git), has(self.http), has(self.oci), has(self.configMap), has(self.inline)].filter(x, x).size() == 1")
        .message("give exactly one of git, http, oci, configMap and inline")
}

/// A path that stays within the context.
pub fn relative_path(field: &str) -> Rule {
    Rule::new(
        "!self.startsWith('/') && !self.startsWith('-') && !self.split('/').exists(s, s == '..') && \
         !self.matches('[[:cntrl:]]')",
    )
    .message(
        format!("{field} is a path within the context: relative, without '..', not beginning with '-'")
            .as_str(),
    )
}

/// Build arguments have the names of shell variables.
pub fn argument_names() -> Rule {
    Rule::new("self.all(k, k.matches('^[A-Za-z_][A-Za-z0-9_]{0,127}$'))")
        .message("a build argument's name has letters, digits and '_' and does not begin with a digit")
}

/// The time of a reproducible build.
pub fn epoch_form() -> Rule {
    Rule::new(
        "!('SOURCE_DATE_EPOCH' in self) || self['SOURCE_DATE_EPOCH'].matches('^([0-9]{1,12}|context)?$')",
    )
    .message("SOURCE_DATE_EPOCH is a number of seconds since 1970, or context for the time of the git commit")
}

/// The name of a stage of a Dockerfile, or its number.
pub fn stage_name() -> Rule {
    Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9_.-]*$')")
        .message("target is the name of a stage (FROM … AS name): letters, digits, '_', '.' and '-'")
}

/// The name of an object of the same namespace.
pub fn object_name() -> Rule {
    Rule::new(format!("self.matches('^{SUBDOMAIN}$')")).message(
        "write the name of an object of this namespace: letters in lower case, digits, '-' and '.', without a namespace",
    )
}

/// The name of a StorageClass, or none at all: a volume that exists already.
pub fn storage_class() -> Rule {
    Rule::new(format!("self == '' || self.matches('^{SUBDOMAIN}$')")).message(
        "write the name of a StorageClass: letters in lower case, digits, '-' and '.'; or \"\" for a volume that is there already",
    )
}

/// A key of a Secret.
pub fn secret_key() -> Rule {
    Rule::new("self.matches('^[A-Za-z0-9._-]+$') && self != '.' && !self.startsWith('..')")
        .message("a key of a Secret has letters, digits, '_', '.' and '-'")
}

/// Labels of images, which become options of the builder.
pub fn image_label_keys() -> Rule {
    Rule::new("self.all(k, k.matches('^[^=\\\\s]+$'))").message("a label's key has neither blanks nor '='")
}

/// Annotations have names.
pub fn annotation_keys_not_empty() -> Rule {
    Rule::new("!('' in self)").message("an annotation has a key, for example org.opencontainers.image.source")
}

/// Labels as Kubernetes has them.
pub fn label_form(field: &str) -> Rule {
    Rule::new(format!(
        "self.all(k, k.matches('^{}$') && self[k].matches('^({WORD})?$'))",
        label_key()
    ))
    .message(
        format!(
            "{field}: write keys such as disk or example.com/disk, and values of at most 63 letters, digits, '_', '.' and '-'"
        )
        .as_str(),
    )
}

/// Keys of annotations as Kubernetes has them.
pub fn annotation_form() -> Rule {
    Rule::new(format!("self.all(k, k.matches('^{}$'))", label_key()))
        .message("annotations: write keys such as example.com/note, of letters, digits, '_', '.' and '-'")
}

/// Tolerations that the API server takes in a pod.
pub fn tolerations_form() -> Rule {
    Rule::new(
        "self.all(t, (!has(t.operator) || t.operator in ['', 'Exists', 'Equal', 'Lt', 'Gt']) && \
         (!has(t.effect) || t.effect in ['', 'NoSchedule', 'PreferNoSchedule', 'NoExecute']) && \
         (has(t.key) && t.key != '' || has(t.operator) && t.operator == 'Exists') && \
         !(has(t.operator) && t.operator == 'Exists' && has(t.value) && t.value != '') && \
         (!has(t.tolerationSeconds) || has(t.effect) && t.effect == 'NoExecute'))",
    )
    .message(
        "a toleration has operator Equal with key and value, or Exists without value; effect NoSchedule, PreferNoSchedule, \
         NoExecute or none; and tolerationSeconds with NoExecute alone",
    )
}

/// Amounts of resources that a container can have.
pub fn amounts_form() -> Rule {
    Rule::new(
        "self.all(k, (k in ['cpu', 'memory', 'ephemeral-storage'] || k.startsWith('hugepages-') || k.contains('/')) && \
         isQuantity(string(self[k])) && !quantity(string(self[k])).isLessThan(quantity('0')))",
    )
    .message(
        "write amounts of cpu, memory, ephemeral-storage or of a resource such as example.com/fast, for example cpu: 500m, \
         memory: 4Gi",
    )
}

/// A container cannot be promised more than it may use.
pub fn requests_within_limits() -> Rule {
    Rule::new(
        "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || \
         !quantity(string(self.requests[k])).isGreaterThan(quantity(string(self.limits[k]))))",
    )
    .message("requests may not be more than limits; raise the limit, or lower the request")
}

/// A duration as Go writes it, more than none.
pub fn duration_positive(field: &str) -> Rule {
    within("1s", format!("{field} is a duration of at least one second, for example 90s, 45m or 1h30m"))
}

/// A duration as Go writes it.
pub fn duration(field: &str) -> Rule {
    within("0s", format!("{field} is a duration, for example 0s, 90s, 45m or 1h30m"))
}

/// So few digits that no arithmetic overflows, neither here nor in the operator.
fn within(least: &str, message: String) -> Rule {
    Rule::new(format!(
        "self.matches('^([0-9]{{1,6}}([.][0-9]{{1,9}})?(ms|s|m|h))+$') && duration(self) >= duration('{least}') && \
         duration(self) <= duration('87600h')"
    ))
    .message(message.as_str())
}

/// git over http, https and ssh only.
pub fn git_url_scheme() -> Rule {
    Rule::new("self.matches('^(https?|ssh)://[^/\\\\s#?]+/[^\\\\s#?]*$')").message(
        "write an https:// or ssh:// address of a repository (git@host:path is ssh://git@host/path), without '#' \
         and '?'; ref, commit and subPath have fields of their own",
    )
}

/// There is no ssh without a key and a list of known hosts.
pub fn git_ssh_with_secret() -> Rule {
    Rule::new("!self.url.startsWith('ssh://') || has(self.secretRef)")
        .message("ssh needs secretRef: a Secret with identity (the private key) and known_hosts")
}

/// An address over http or https.
pub fn http_url() -> Rule {
    Rule::new("self.matches('^https?://[^/@\\\\s]+/[^\\\\s#]*$')")
        .message("write the http:// or https:// address of a tar archive, without credentials")
}

/// A SHA-256 in hexadecimal digits.
pub fn sha256_form() -> Rule {
    Rule::new("self.matches('^[0-9a-f]{64}$')")
        .message("sha256 has 64 hexadecimal digits in lower case; `sha256sum` prints it")
}

/// Contexts that every platform sees alike. (The whole grammar of images is more than the API server's budget allows.)
pub fn named_contexts() -> Rule {
    Rule::new(
        "self.all(k, k.matches('^[a-zA-Z0-9][a-zA-Z0-9._:/@-]{0,254}$') && \
         (self[k].matches('^docker-image://[^\\\\s]+$') || \
         (self[k].matches('^https?://[^@\\\\s]+$') && (!self[k].matches('[.]git([/?#]|$)|#') || self[k].matches('[.]git#[0-9a-f]{40}(:[^\\\\s]*)?$')))))",
    )
    .message(
        "a named context is docker-image://…, the http(s) address of a file, or a git repository at a full commit: \
         https://….git#<40 hexadecimal digits>; a branch could differ between platforms",
    )
}

/// BuildKit's command knows keys in lower case only.
pub fn annotation_keys() -> Rule {
    Rule::new("self.all(k, k.matches('^[a-z0-9][a-z0-9._/-]*$'))")
        .message("write keys of annotations in lower case: BuildKit turns capitals into small letters")
}

/// The id of a secret.
pub fn secret_id() -> Rule {
    Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$')")
        .message("an id has letters, digits, '_', '.' and '-'")
}

/// The repository of a cache, which becomes a part of BuildKit's options.
pub fn cache_repository() -> Rule {
    Rule::new(format!("self.matches('^{}$')", repository())).message(
        "write registry/repository in lower case and without a tag: the tag names resource and platform",
    )
}

/// The fields of a cache belong to its type.
pub fn cache_fields() -> Rule {
    Rule::new(
        "(self.type == 'Registry' || !has(self.repository)) && ((self.type == 'Volume') == has(self.volume))",
    )
    .message("repository belongs to type: Registry, and volume.size to type: Volume, which needs it")
}

/// References of caches.
pub fn cache_references() -> Rule {
    Rule::new(format!("self.all(r, r.matches('^{}$'))", image()))
        .message("write references such as registry.example.com/cache/web:main")
}

/// An amount of storage.
pub fn amount_form() -> Rule {
    Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("write an amount such as 20Gi")
}

/// The address of a daemon.
pub fn remote_endpoint() -> Rule {
    Rule::new(format!("self.matches('^tcp://([a-zA-Z0-9._-]+|\\\\[[0-9a-fA-F:]+]):{PORT}$')"))
        .message("write tcp://host:port")
}

/// Our own labels and annotations, and Kubernetes' for Jobs, are not for users.
pub fn metadata_free_of_ours(field: &str) -> Rule {
    Rule::new("!self.exists(k, k.contains('multiarch.dev/') || k.startsWith('batch.kubernetes.io/') || k.startsWith('app.kubernetes.io/managed-by'))")
        .message(format!("{field} of multiarch.dev/, of batch.kubernetes.io/ and app.kubernetes.io/managed-by are set by the operator").as_str())
}

/// Credentials never stand in a spec.
pub fn git_url_without_credentials() -> Rule {
    Rule::new("self.startsWith('ssh://') ? !self.matches('^ssh://[^/]*:[^/@]*@') : !self.matches('^[a-z+]+://[^/]*@')").message(
        "the address holds credentials, which everyone who can read this object could see; write them into the Secret \
         that secretRef names",
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

/// A command begins with a program.
pub fn command_has_program() -> Rule {
    Rule::new("size(self) == 0 || self[0] != ''")
        .message("write the program first, then its arguments, for example [/app, --version]")
}

/// What Pod Security's restricted level demands.
pub fn user_is_not_root() -> Rule {
    Rule::new("self > 0").message(
        "runAsUser is a number above 0: the pod runs without privileges, in namespaces of Pod Security level restricted too",
    )
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
