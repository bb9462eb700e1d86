//! Images and indexes: how an image is found and verified, and what is published.
//!
//! [`resolve`] ─▶ [`ResolvedImage`]s ─▶ [`AssembledIndex::assemble`] (pure) ─▶ [`publish`]; all of it at once:
//! [`publish_composition`]. Apart from that, [`inspect_program`] looks into an image's layers.

mod bases;
mod binary;
mod compose;
mod context;
mod edit;
mod find;
mod index;
pub mod inspect;
mod manifest;
mod program;
mod publish;
mod referrers;
mod resolve;

pub use bases::{BaseImageError, check_base_images};
#[cfg(test)]
pub(crate) use binary::MOST_MEMORY;
pub(crate) use binary::inspect_layers;
pub use binary::{Machine, Program, ProgramFinding, inspect_program};
pub use compose::{
    ComposeError, Composed, Composition, DescriptorEdits, Publication, Source, Target, compose,
    publish_composition,
};
pub use context::{ContextImage, ContextImageError, context_image};
pub use edit::{EditError, EditableIndex, Edits};
pub use index::{AssembleError, AssembledIndex, Format};
pub use manifest::{ExecutionParameters, ImageConfig, ImageManifest, Index};
pub use program::inspect_program_of;
pub use publish::{PublishError, TagChange, TagPolicy, Tags, by_repository, publish, publish_with_images};
pub use referrers::{Followed, Referrers, copy_referrers};
pub use resolve::{PlatformCheck, ResolveError, ResolvedImage, copy_image, resolve};
