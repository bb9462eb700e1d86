//! Images and indexes: how an image is found and verified, and what is published.
//!
//! [`resolve`] ─▶ [`ResolvedImage`]s ─▶ [`AssembledIndex::assemble`] (pure) ─▶ [`publish`]

mod edit;
mod index;
pub mod inspect;
mod manifest;
mod publish;
mod resolve;

pub use edit::{EditError, EditableIndex, Edits};
pub use index::{AssembleError, AssembledIndex, Format};
pub use manifest::{ImageConfig, ImageManifest, Index};
pub use publish::publish;
pub use resolve::{PlatformCheck, ResolveError, ResolvedImage, resolve};
