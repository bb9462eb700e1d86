//! The requests that a publication cannot do without, from a client that knows every answer beforehand: what they cost
//! on this machine, the registry's own work and the front's included.

use std::time::Instant;

use futures::future::join_all;
use multiarch::registry::MediaType;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;

use crate::images::{Image, SEED, entries_of};

/// Publishes `images` of `from` under `tags` of `repository` through the front at `host`; the milliseconds that it takes.
///
/// # Errors
/// If a request is refused, which makes the time worth nothing.
pub async fn publish(
    host: &str,
    from: &str,
    repository: &str,
    tags: &[String],
    images: &[Image],
) -> Result<f64, String> {
    // Nothing is connected yet, as in a process that starts.
    let http = Client::builder().no_proxy().build().expect("a client");
    let address = |path: &str| format!("http://{host}/v2/{path}");
    let put = |path: String, media_type: MediaType, content: &Value| {
        let body = serde_json::to_vec(content).expect("JSON");
        http.put(address(&path)).header("content-type", media_type.as_str()).body(body)
    };
    let index = entries_of(images);
    let began = Instant::now();
    all(images.iter().map(|image| {
        let request = http.get(address(&format!("{from}/manifests/{}", image.tag)));
        request.header("accept", MediaType::OCI_MANIFEST.as_str())
    }))
    .await?;
    let configs = images.iter().map(|image| http.get(address(&format!("{from}/blobs/{}", image.config()))));
    let mounts = images
        .iter()
        .flat_map(Image::blobs)
        .map(|digest| http.post(address(&format!("{repository}/blobs/uploads/?mount={digest}&from={SEED}"))));
    match from == repository {
        true => all(configs).await?,
        false => {
            all(configs.chain(mounts)).await?;
            let manifests = images.iter().map(|image| {
                let path = format!("{repository}/manifests/{}", image.digest());
                put(path, MediaType::OCI_MANIFEST, image.manifest())
            });
            all(manifests).await?;
        }
    }
    all(tags.iter().map(|tag| put(format!("{repository}/manifests/{tag}"), MediaType::OCI_INDEX, &index)))
        .await?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// At once.
async fn all(requests: impl Iterator<Item = RequestBuilder>) -> Result<(), String> {
    let answers = join_all(requests.map(|request| async {
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        answer.bytes().await.map_err(|error| error.to_string())?;
        Ok(status)
    }));
    for status in answers.await {
        match status {
            Ok(StatusCode::OK | StatusCode::CREATED) => {}
            Ok(status) => return Err(format!("HTTP {status}")),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
