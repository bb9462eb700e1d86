//! Images and indexes: how an image is found and verified, and what is published.
//!
//! [`resolve`] ─▶ [`ResolvedImage`]s ─▶ [`AssembledIndex::assemble`] (pure) ─▶ [`publish`]

mod index;
mod manifest;
mod publish;
mod referrers;
mod resolve;

pub use index::{AssembleError, AssembledIndex, Format};
pub use manifest::{ImageConfig, ImageManifest, Index};
pub use publish::publish;
pub use referrers::{Followed, Referrers, copy_referrers};
pub use resolve::{PlatformCheck, ResolveError, ResolvedImage, resolve};
