//! The commands that look at the `MultiArchImage`s of a cluster and change nothing: how they stand, why, until when, and
//! what their builds print.

mod age;
pub mod logs;
pub mod selection;
mod state;
pub mod status;
pub mod wait;
mod watch;
pub mod why;

use super::resource::is_dns_subdomain;

/// The name of an image as it is typed: `web`, or as kubectl prints it, `multiarchimage.multiarch.dev/web`.
///
/// # Errors
/// When it is another kind of object, or no name at all.
pub(super) fn image_name(text: &str) -> Result<String, String> {
    const KINDS: [&str; 5] = [
        "mai",
        "multiarchimage",
        "multiarchimages",
        "multiarchimage.multiarch.dev",
        "multiarchimages.multiarch.dev",
    ];
    let name = match text.split_once('/') {
        Some((kind, name)) if KINDS.contains(&kind.to_ascii_lowercase().as_str()) => name,
        Some((kind, _)) => return Err(format!("{kind} is another kind; write the name of a MultiArchImage")),
        None => text,
    };
    // A name is a part of the requests that are made with it.
    match is_dns_subdomain(name) {
        true => Ok(name.to_owned()),
        false => Err("this is no name of an object: it has small letters, digits, '-' and '.', and begins and ends with a \
                      letter or digit"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::image_name;

    #[test]
    fn names_are_taken_as_kubectl_prints_them() {
        for name in ["web", "mai/web", "multiarchimage.multiarch.dev/web"] {
            assert_eq!(image_name(name).unwrap(), "web");
        }
        for name in ["pod/web", "", "mai/", "../web", "a b", ".web", "web.", "..", "mai/a/b"] {
            assert!(image_name(name).is_err(), "{name:?}");
        }
    }
}
