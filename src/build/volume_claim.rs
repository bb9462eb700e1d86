//! The PersistentVolumeClaim that keeps a platform's cache from one build to the next.

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{BuildRequest, cache_claim_name};
use crate::api::{CacheType, LABEL_IMAGE, LABEL_PLATFORM, MANAGER};

/// The claim for the cache of the request's platform, where one is wanted. It goes when the `MultiArchImage` goes.
pub fn volume_claim(request: &BuildRequest<'_>, owner: OwnerReference) -> Option<PersistentVolumeClaim> {
    let cache = request.build.cache.as_ref().filter(|cache| cache.r#type == CacheType::Volume)?;
    if request.build.remote.is_some() {
        return None;
    }
    let volume = cache.volume.as_ref()?;
    let labels = [
        ("app.kubernetes.io/managed-by", MANAGER.to_owned()),
        (LABEL_IMAGE, request.image_name.to_owned()),
        (LABEL_PLATFORM, request.platform.slug()),
    ];
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(cache_claim_name(request.image_name, request.platform)),
            namespace: Some(request.namespace.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(volume.size.clone()))].into()),
                limits: None,
            }),
            storage_class_name: volume.storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}
