//! What is typed after flags, in the forms that users of `docker buildx` know.

use clap::ValueEnum;

use super::tree::Map;
use crate::cli::exit::Failure;
use crate::cli::reference;
use crate::platform::Platform;
use crate::registry::Reference;

/// `--tag`: a tag alone, or with its repository as in `docker buildx build --tag`.
#[derive(Debug, Clone)]
pub(super) struct Tag {
    pub repository: Option<String>,
    pub tag: String,
}

pub(super) fn tag(text: &str) -> Result<Tag, Failure> {
    if !text.contains('/') {
        return Ok(Tag { repository: None, tag: text.to_owned() });
    }
    let reference = reference::target(text)?;
    let tag = reference.tag().unwrap_or_default().to_owned();
    Ok(Tag { repository: Some(reference.repository().to_string()), tag })
}

/// `--image`: `linux/arm64=REF`, or `REF` for all platforms.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub platform: Option<Platform>,
    /// As it was typed.
    pub text: String,
    pub reference: Reference,
}

pub(super) fn image(text: &str) -> Result<Image, Failure> {
    // No reference has an equals sign in it.
    let (platform, text) = match text.split_once('=') {
        Some((platform, text)) => (Some(parse_platform(platform)?), text),
        None => (None, text),
    };
    Ok(Image { platform, text: text.to_owned(), reference: reference::source(text)? })
}

fn parse_platform(text: &str) -> Result<Platform, Failure> {
    text.parse().map_err(|error: crate::platform::ParsePlatformError| Failure::usage(error.to_string()))
}

/// `--git`: an address, or as buildx has it `https://….git#REF:FOLDER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Git {
    pub url: String,
    pub r#ref: Option<String>,
    pub sub_path: Option<String>,
}

pub(super) fn git(text: &str) -> Result<Git, Failure> {
    let (address, fragment) = text.split_once('#').map_or((text, ""), |(address, rest)| (address, rest));
    let (name, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
    let url = match address.split_once(':') {
        // scp's form, which git takes too.
        Some((host, path)) if !address.contains("://") && host.contains('@') => {
            format!("ssh://{host}/{path}")
        }
        _ => address.to_owned(),
    };
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(Git { url, r#ref: given(name), sub_path: given(folder) })
}

/// `KEY=VALUE`
pub(super) fn pair(text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::usage("write KEY=VALUE")),
    }
}

/// `--build-arg`: as in docker, a name alone takes its value from the environment.
pub(super) fn build_argument(text: &str) -> Result<(String, String), Failure> {
    if text.contains('=') {
        return pair(text);
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.to_owned(), value)),
        Err(_) => Err(Failure::usage(format!("write {text}=VALUE; the environment has no {text}"))),
    }
}

/// `--secret id=ID,secret=NAME[,key=KEY]`: a key of a Secret of the namespace.
pub(super) fn secret(text: &str) -> Result<Secret, Failure> {
    let (mut id, mut name, mut key) = (None, None, None);
    for (field, value) in pairs(text)? {
        match field.as_str() {
            "id" => id = Some(value),
            "secret" => name = Some(value),
            "key" => key = Some(value),
            "src" | "source" | "env" | "type" => {
                return Err(Failure::usage(
                    "the cluster cannot read files and variables of this machine; put the value into a Secret and write \
                     id=ID,secret=NAME[,key=KEY]",
                ));
            }
            _ => return Err(unknown(&field, "id, secret, key")),
        }
    }
    match (id, name) {
        (Some(id), Some(name)) => Ok(Secret { key: key.unwrap_or_else(|| id.clone()), id, name }),
        _ => Err(Failure::usage("write id=ID,secret=NAME[,key=KEY], as in id=npmrc,secret=npm,key=.npmrc")),
    }
}

/// A secret of a build.
#[derive(Debug, Clone)]
pub(super) struct Secret {
    id: String,
    name: String,
    key: String,
}

impl Secret {
    pub(super) fn tree(&self) -> Map {
        let reference = Map::default().with("name", &self.name).with("key", &self.key);
        Map::default().with("id", &self.id).with("secretRef", reference)
    }
}

/// `--cache-to type=registry[,ref=REPOSITORY][,mode=min]`, `type=inline`, `type=volume,size=20Gi`.
pub(super) fn cache(text: &str) -> Result<Cache, Failure> {
    let mut cache = Cache::default();
    for (field, value) in pairs(text)? {
        match field.as_str() {
            "type" => cache.r#type = Some(chosen(&value, &["Registry", "Inline", "Volume"])?),
            "ref" => cache.repository = Some(value),
            "mode" => cache.mode = Some(chosen(&value, &["Min", "Max"])?).filter(|mode| mode != "Max"),
            "size" => cache.size = Some(value),
            _ => return Err(unknown(&field, "type, ref, mode, size")),
        }
    }
    if cache.r#type.is_none() {
        return Err(Failure::usage("write type=registry, type=inline or type=volume,size=20Gi"));
    }
    Ok(cache)
}

/// Where a cache is kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Cache {
    r#type: Option<String>,
    repository: Option<String>,
    mode: Option<String>,
    size: Option<String>,
}

impl Cache {
    pub(super) fn tree(&self, from: &[String]) -> Map {
        if self.r#type.is_none() && from.is_empty() {
            return Map::default();
        }
        Map::default()
            .with("type", self.r#type.as_deref().unwrap_or("None"))
            .with_given("repository", self.repository.as_ref())
            .with_given("mode", self.mode.as_ref())
            .with("volume", Map::default().with_given("size", self.size.as_ref()))
            .with("from", from.to_vec())
    }
}

/// `--cache-from REF`, or `type=registry,ref=REF`.
pub(super) fn cache_from(text: &str) -> Result<String, Failure> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    let pairs = pairs(text)?;
    let of = |name: &str| pairs.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
    match (of("type").as_deref(), of("ref")) {
        (None | Some("registry"), Some(reference)) => Ok(reference),
        _ => Err(Failure::usage("only caches of registries are read: write type=registry,ref=REF")),
    }
}

/// `--when-no-node [PLATFORM=]POLICY`
#[derive(Debug, Clone)]
pub(super) struct WhenNoNode {
    pub platform: Option<Platform>,
    pub policy: String,
}

pub(super) fn when_no_node(text: &str) -> Result<WhenNoNode, Failure> {
    let (platform, policy) = match text.split_once('=') {
        Some((platform, policy)) => (Some(parse_platform(platform)?), policy),
        None => (None, text),
    };
    Ok(WhenNoNode { platform, policy: chosen(policy, &["Wait", "Emulate", "Fail", "Skip"])? })
}

/// How much the provenance tells; `true` is buildx's `mode=min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Provenance {
    /// Nothing; there is none.
    #[value(alias = "false")]
    Off,
    /// Sources and times.
    #[value(alias = "true", alias = "mode=min")]
    Min,
    /// The build's arguments and steps as well.
    #[value(alias = "mode=max")]
    Max,
}

/// A name in whatever case, as the resource spells it.
fn chosen(text: &str, names: &[&str]) -> Result<String, Failure> {
    let found = names.iter().find(|name| name.eq_ignore_ascii_case(text));
    match found {
        Some(name) => Ok((*name).to_owned()),
        None => Err(Failure::usage(format!("{text:?} is none of {}", names.join(", ")))),
    }
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, Failure> {
    let fields = reference::fields(text).map_err(|error| Failure::usage(error.to_string()))?;
    fields.iter().map(|field| pair(field)).collect()
}

fn unknown(field: &str, known: &str) -> Failure {
    Failure::usage(format!("unknown field {field:?}; known are {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_is_taken_as_buildx_and_as_scp_have_it() {
        let of = |text: &str| {
            let Git { url, r#ref, sub_path } = git(text).unwrap();
            (url, r#ref.unwrap_or_default(), sub_path.unwrap_or_default())
        };
        let all = |url: &str, name: &str, folder: &str| (url.to_owned(), name.to_owned(), folder.to_owned());
        assert_eq!(of("https://x.test/a.git"), all("https://x.test/a.git", "", ""));
        assert_eq!(of("https://x.test/a.git#v1:cmd/web"), all("https://x.test/a.git", "v1", "cmd/web"));
        assert_eq!(of("https://x.test/a.git#:web"), all("https://x.test/a.git", "", "web"));
        assert_eq!(of("git@x.test:team/a.git#main"), all("ssh://git@x.test/team/a.git", "main", ""));
        assert_eq!(of("ssh://git@x.test:2222/a.git"), all("ssh://git@x.test:2222/a.git", "", ""));
    }

    #[test]
    fn tags_come_with_their_repository_or_alone() {
        let whole = tag("localhost:5000/web:1.4").unwrap();
        assert_eq!((whole.repository.as_deref(), whole.tag.as_str()), (Some("localhost:5000/web"), "1.4"));
        assert_eq!(tag("1.4").unwrap().repository, None);
        assert!(tag("ghcr.io/acme/web").unwrap_err().to_string().contains("it has no tag"));
    }

    #[test]
    fn what_only_this_machine_has_is_no_secret_of_a_cluster() {
        let error = secret("id=npmrc,src=/home/me/.npmrc").unwrap_err().to_string();
        assert!(error.contains("put the value into a Secret"), "{error}");
        assert_eq!(secret("id=npmrc,secret=npm").unwrap().key, "npmrc");
        assert!(secret("id=npmrc").is_err() && secret("id=a,secret=b,kye=c").is_err());
    }

    #[test]
    fn caches_are_told_as_buildx_has_it() {
        let json = |to: &str| serde_json::to_string(&cache(to).unwrap().tree(&[])).unwrap();
        assert_eq!(json("type=registry,mode=max"), r#"{"type":"Registry"}"#);
        assert_eq!(
            json("type=registry,ref=a.io/b,mode=min"),
            r#"{"type":"Registry","repository":"a.io/b","mode":"Min"}"#
        );
        assert_eq!(json("type=volume,size=20Gi"), r#"{"type":"Volume","volume":{"size":"20Gi"}}"#);
        assert!(cache("type=gha").is_err() && cache("mode=max").is_err());
        assert_eq!(cache_from("type=registry,ref=a.io/b:c").unwrap(), "a.io/b:c");
        assert!(cache_from("type=gha").is_err());
    }
}
