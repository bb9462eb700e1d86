//! The OCI distribution client: one transport, one token cache, one retry policy.
//!
//! ```text
//! Client ── connections, tokens, counts: one of them in the process
//!   └─ session(keyring) ─▶ Session ── one resource's requests with its own credentials
//!        manifests  blobs  copy       what is asked
//!        session                      authorised, tried again, explained
//!        transport                    sent, redirects followed, limits kept
//! ```
//!
//! Specifications: OCI distribution 1.1, Docker's token authentication, RFC 7235 and 9110.

mod authorization;
mod blob_reader;
mod blobs;
mod challenge;
mod copy;
mod credentials;
mod descriptor;
mod digest;
mod docker_config;
mod error;
mod host;
mod host_state;
mod http;
mod limit;
mod manifests;
mod memory;
mod mirrors;
mod name;
mod pages;
mod prefix;
mod reference;
mod referrers;
mod retry;
mod scope;
mod session;
mod settings;
mod single_flight;
mod tags;
mod token;
mod transport;
mod upload;

pub use blob_reader::{BlobReader, BlobStore, ByteStream};
pub use blobs::{Delivery, RepositoryBlobs};
pub use challenge::Challenge;
pub use copy::{Copied, Transfer};
pub use credentials::{Credential, Keyring};
pub use descriptor::{Descriptor, DescriptorPlatform, MediaType};
pub use digest::{Algorithm, Digest, Hasher, ParseDigestError};
pub use docker_config::{CredentialsError, DockerConfig};
pub use error::{Error, Kind};
pub use manifests::{LARGEST_MANIFEST, Manifest};
pub use mirrors::Mirror;
pub use prefix::{ParsePrefixError, RepositoryPrefix};
pub use reference::{ParseReferenceError, Reference, Repository};
pub use retry::Retry;
pub use session::{Observer, Session};
pub use settings::{ClientCertificate, RegistrySettings, Settings, SettingsError};
pub use transport::Client;

pub(crate) use copy::blobs as blobs_of_image;
pub(crate) use descriptor::null_as_default;
pub(crate) use error::{Operation, readable};
pub(crate) use host::HostPattern;
pub(crate) use host::is_loopback;
pub(crate) use manifests::manifest_from_bytes;
pub(crate) use manifests::media_type;
pub(crate) use memory::check_values;
pub(crate) use reference::api_host;
pub(crate) use settings::read_limited;
