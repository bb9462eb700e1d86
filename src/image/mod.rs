//! Images and indexes: how an image is found and verified, and what is published.
//!
//! [`resolve`] ─▶ [`ResolvedImage`]s ─▶ [`AssembledIndex::assemble`] (pure) ─▶ [`publish`]

mod binary;
mod index;
mod manifest;
mod publish;
mod resolve;

pub use binary::{Machine, Program, ProgramFinding, inspect_program};
pub use index::{AssembleError, AssembledIndex, Format};
pub use manifest::{ExecutionParameters, ImageConfig, ImageManifest, Index};
pub use publish::publish;
pub use resolve::{PlatformCheck, ResolveError, ResolvedImage, resolve};
