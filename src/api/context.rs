//! Where a build's files come from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LocalObjectReferenceRequired, SecretReference, rules};

/// Where a build's files come from: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BuildContext {
    /// A git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitContext>,
    /// A tar archive at an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpContext>,
    /// An image or an artifact in a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciContext>,
    /// A ConfigMap of this namespace; each key is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<LocalObjectReferenceRequired>,
    /// A Dockerfile without any other file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<InlineContext>,
}

/// A git repository. A ref is resolved to a commit once, and every platform builds that commit, submodules included.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::git_ssh_with_secret())]
pub struct GitContext {
    /// Address of the repository, without credentials: https://…, http://…, ssh://git@host/path
    #[x_kube(validation = rules::git_url_scheme())]
    #[x_kube(validation = rules::git_url_without_credentials())]
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// Branch, tag or full ref name; the remote's HEAD when neither this nor `commit` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::git_ref_form())]
    #[schemars(length(min = 1, max = 255))]
    pub r#ref: Option<String>,
    /// The full commit to build, 40 or 64 hexadecimal digits. Wins over `ref`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::git_commit_form())]
    #[schemars(length(max = 64))]
    pub commit: Option<String>,
    /// The folder of the repository that is the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::relative_path("subPath"))]
    #[schemars(length(min = 1, max = 512))]
    pub sub_path: Option<String>,
    /// A Secret with what the git server asks for, as Flux has it. For https: `username` and `password`, or `token`,
    /// or `bearerToken`; `ca.crt` for a private authority. For ssh: `identity` (or `ssh-privatekey`) and `known_hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
}

/// A tar archive, compressed or not.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpContext {
    /// Its address.
    #[x_kube(validation = rules::http_url())]
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
    /// The SHA-256 of the archive, 64 hexadecimal digits: every platform builds the same.
    #[x_kube(validation = rules::sha256_form())]
    #[schemars(length(max = 64))]
    pub sha256: String,
}

/// An image, whose files are the context, or an artifact with one tar archive, as `flux push artifact` makes them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OciContext {
    /// Its reference, by tag or digest. A tag is resolved once for all platforms.
    #[x_kube(validation = rules::image_form())]
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
}

/// A build context that is a single Dockerfile.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InlineContext {
    /// The text of the Dockerfile, at most 64 KiB.
    #[schemars(length(min = 1, max = 65536))]
    pub dockerfile: String,
}
