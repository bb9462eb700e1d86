//! What a token is asked for: distribution spec, "Token scope".

use std::collections::BTreeSet;

use super::reference::Repository;

/// Resources and what is to be done with each, the most important first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scopes(Vec<Scope>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Scope {
    resource: String,
    actions: BTreeSet<String>,
}

impl Scopes {
    pub(crate) fn pull(repository: &Repository) -> Self {
        Self::default().and(&format!("repository:{}:pull", repository.path()))
    }

    pub(crate) fn push(repository: &Repository) -> Self {
        Self::default().and(&format!("repository:{}:pull,push", repository.path()))
    }

    /// The target first: some servers honour one scope only, and then the mount falls back to an upload.
    pub(crate) fn mount(target: &Repository, source: &Repository) -> Self {
        Self::push(target).and(&format!("repository:{}:pull", source.path()))
    }

    /// These scopes and those of `text`, separated by spaces.
    pub(crate) fn and(mut self, text: &str) -> Self {
        for (resource, actions) in text.split_whitespace().filter_map(|scope| scope.rsplit_once(':')) {
            let actions = actions.split(',').map(str::to_owned);
            match self.0.iter_mut().find(|scope| scope.resource == resource) {
                Some(scope) => scope.actions.extend(actions),
                None => self.0.push(Scope { resource: resource.to_owned(), actions: actions.collect() }),
            }
        }
        self
    }

    /// These scopes and those of `others`.
    pub(crate) fn and_all(self, others: &Self) -> Self {
        others.texts().fold(self, |scopes, text| scopes.and(&text))
    }

    /// Each scope as its own text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|Scope { resource, actions }| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{resource}:{}", actions.join(","))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scopes: &Scopes) -> Vec<String> {
        scopes.texts().collect()
    }

    #[test]
    fn a_mount_asks_for_the_target_first_and_for_each_repository_by_itself() {
        let target = "ghcr.io/acme/web".parse().unwrap();
        let source = "ghcr.io/acme/base".parse().unwrap();
        assert_eq!(
            texts(&Scopes::mount(&target, &source)),
            ["repository:acme/web:pull,push", "repository:acme/base:pull"]
        );
        assert_eq!(texts(&Scopes::mount(&target, &target)), ["repository:acme/web:pull,push"]);
    }

    #[test]
    fn scopes_of_one_resource_are_one() {
        let repository = "ghcr.io/acme/web".parse().unwrap();
        let scopes = Scopes::pull(&repository).and("repository:acme/web:push,pull registry:catalog:* junk");
        assert_eq!(texts(&scopes), ["repository:acme/web:pull,push", "registry:catalog:*"]);
    }
}
