//! Which hosts the operator speaks to. Tenants name registries and git servers, and those lead to further hosts, so
//! that whoever names a host could have the operator's own network asked for them: server-side request forgery.
//!
//! ```text
//! HostPolicy ─ of the whole operator: the rules of --policies, and what its own settings name
//!   └─ access(namespace) ─▶ Access ─ check(host, port): before each request, that of a redirect included
//!                             └─▶ Guard ─ resolves the name; only addresses that may be are connected to
//! ```
//!
//! The address that is checked is the one that is connected to, so a name that resolves otherwise the next time gains
//! nothing. A proxy resolves for itself: on the way through one, only names and literal addresses are checked.

mod access;
mod address;
mod guard;
mod selector;

pub(crate) use access::canonical;
pub use access::{Access, HostDenied, HostPolicy, HostRule};
pub(crate) use guard::{Guard, guard, is_proxied};
pub use selector::HostSelector;
