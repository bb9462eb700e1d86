//! Which platforms the cluster has nodes for.

use crate::platform::Platform;

/// The nodes of the cluster, as far as the operator may see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// os and architecture of every node, by its labels.
    Seen(Vec<(String, String)>),
    /// An operator of one namespace need not be allowed to look at nodes. Only the scheduler's words tell then.
    Unseen,
}

impl Default for Nodes {
    fn default() -> Self {
        Nodes::Seen(Vec::new())
    }
}

impl Nodes {
    /// Whether a node of the platform is known to be there, ready or not: clusters scale.
    pub fn has(&self, platform: &Platform) -> bool {
        let [(_, os), (_, architecture)] = platform.node_selector();
        matches!(self, Nodes::Seen(nodes) if nodes.contains(&(os, architecture)))
    }

    /// Whether there may be one: where nodes are not seen there always may.
    pub fn may_have(&self, platform: &Platform) -> bool {
        *self == Nodes::Unseen || self.has(platform)
    }

    /// The same by the labels that a pod selects; one that selects no architecture runs anywhere.
    pub(super) fn may_have_labels(&self, os: &str, architecture: &str) -> bool {
        let is_of = |(node_os, node_arch): &(String, String)| node_os == os && node_arch == architecture;
        match self {
            Nodes::Seen(nodes) => architecture.is_empty() || nodes.iter().any(is_of),
            Nodes::Unseen => true,
        }
    }
}
