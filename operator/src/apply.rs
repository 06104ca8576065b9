//! Making children true: server-side apply with one field manager. A child is applied again when what is wanted of it
//! has changed, or when somebody else has changed it. One that no watch shows is applied on condition that there is none:
//! so nobody has to look first, and what somebody else makes at the same moment is not taken over either.

use crate::child::{Child, Kind};
use crate::names::MANAGER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, ValidationDirective};
use kube::core::{PartialObjectMeta, Status};
use kube::{Api, Client};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Why a child could not be made true.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// There is an object of this name that belongs to somebody else.
    #[error("{kind} {name:?} exists and does not belong to this OutboxRelay; remove or rename it, or rename the OutboxRelay", kind = .kind.name())]
    Foreign {
        /// Kind of the object.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The API server refuses the child as it is.
    #[error("the API server refuses {kind} {name:?}: {message}", kind = .kind.name())]
    Refused {
        /// Kind of the object.
        kind: Kind,
        /// Its name.
        name: String,
        /// What the API server says.
        message: String,
    },
    /// The namespace is being deleted: nothing can be made in it any more.
    #[error("{kind} {name:?} cannot be made: the namespace is being deleted", kind = .kind.name())]
    NamespaceEnds {
        /// Kind of the object.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The API server could not be asked, or had no time.
    #[error("{kind} {name:?}: {source}", kind = .kind.name())]
    Api {
        /// Kind of the object.
        kind: Kind,
        /// Its name.
        name: String,
        /// What went wrong.
        source: Box<kube::Error>,
    },
}

/// What a watch shows of an object: enough to tell whose it is and whether it has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenObject {
    /// UID of the object.
    pub uid: Option<String>,
    /// UID of its controlling owner.
    pub owner: Option<String>,
    version: Version,
}

/// Rises with every change of what was asked for. Where a kind counts generations those are taken, as its status
/// changes all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(i64);

impl SeenObject {
    /// From an object's metadata.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let resource_version = metadata
            .resource_version
            .as_deref()
            .and_then(|text| text.parse().ok());
        let owner = controller_of(metadata).map(|owner| owner.uid.clone());
        Self {
            uid: metadata.uid.clone(),
            owner,
            version: Version(metadata.generation.or(resource_version).unwrap_or(0)),
        }
    }
}

/// The owner that controls an object.
pub fn controller_of(
    metadata: &ObjectMeta,
) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
    metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// Whose a child is.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// Namespace of the resource and its children.
    pub namespace: &'a str,
    /// Name of the resource.
    pub name: &'a str,
    /// UID of the resource.
    pub uid: &'a str,
}

type Key = (Kind, String, String);

/// What is asked back of an object.
type Metadata = PartialObjectMeta<DynamicObject>;

/// What became of a child that was to be made true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It was already; the API server was not asked.
    Already,
    /// It was there, and is as it must be.
    Changed,
    /// There was none.
    Made(SeenObject),
}

/// A version that no object has: the first write to an empty etcd is number 2. Applied with it, an object is made, and one
/// that exists is refused as a conflict.
const OF_NOTHING: &str = "1";

/// Applies and removes.
pub struct Applier {
    client: Client,
    /// What was applied last.
    applied: Mutex<HashMap<Key, Known>>,
}

struct Known {
    checksum: String,
    /// As the API server answered.
    version: Version,
    at: Instant,
    /// A watch has shown it since.
    shown: bool,
}

/// How long a watch may take to show what was applied, when a thousand resources are made at once. Until then what it does
/// not show is not taken for deleted.
const WATCH_LAG: Duration = Duration::from_secs(30);

impl Applier {
    /// Nothing is applied yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            applied: Mutex::default(),
        }
    }

    /// Makes sure that a child is the owner's, or is not there. The API server is asked for what no watch shows: without the
    /// operator's labels an object may exist all the same.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn admit(
        &self,
        owner: Owner<'_>,
        child: &Child,
        seen: Option<&SeenObject>,
    ) -> Result<(), ApplyError> {
        let looked;
        let seen = match seen {
            Some(seen) => Some(seen),
            None if self.is_current(&key(owner, child.kind, &child.name), &child.checksum(), seen) => None,
            None => {
                looked = self.look(owner, child.kind, &child.name).await?;
                looked.as_ref()
            }
        };
        seen.map_or(Ok(()), |seen| of_owner(owner, child, seen))
    }

    /// Makes a child true, given what a watch shows of it: nobody else's object is ever adopted.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(
        &self,
        owner: Owner<'_>,
        child: &Child,
        seen: Option<&SeenObject>,
    ) -> Result<Applied, ApplyError> {
        let key = key(owner, child.kind, &child.name);
        let checksum = child.checksum();
        if self.is_current(&key, &checksum, seen) {
            return Ok(Applied::Already);
        }
        let failed = |error| refused_or_failed(child.kind, &child.name, error);
        let (applied, made) = match seen {
            Some(seen) => {
                of_owner(owner, child, seen)?;
                (
                    self.patch(owner, child, &child.object).await.map_err(failed)?,
                    false,
                )
            }
            None => match self.make(owner, child).await {
                Ok(made) => (made, true),
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    // The watch lags behind, or it has not the labels by which it would be watched.
                    if let Some(seen) = self.look(owner, child.kind, &child.name).await? {
                        of_owner(owner, child, &seen)?;
                    }
                    (
                        self.patch(owner, child, &child.object).await.map_err(failed)?,
                        false,
                    )
                }
                Err(error) => return Err(failed(error)),
            },
        };
        let seen = SeenObject::of(&applied.metadata);
        let known = Known {
            checksum,
            version: seen.version,
            at: Instant::now(),
            shown: false,
        };
        self.applied.lock().insert(key, known);
        Ok(if made {
            Applied::Made(seen)
        } else {
            Applied::Changed
        })
    }

    async fn make(&self, owner: Owner<'_>, child: &Child) -> Result<Metadata, kube::Error> {
        let mut object = child.object.clone();
        object["metadata"]["resourceVersion"] = serde_json::json!(OF_NOTHING);
        self.patch(owner, child, &object).await
    }

    async fn patch(
        &self,
        owner: Owner<'_>,
        child: &Child,
        object: &serde_json::Value,
    ) -> Result<Metadata, kube::Error> {
        let parameters = PatchParams::apply(MANAGER)
            .force()
            .validation(ValidationDirective::Strict);
        self.api(owner, child.kind)
            .patch_metadata(&child.name, &parameters, &Patch::Apply(object))
            .await
    }

    /// Removes an object if it belongs to the owner; what is not there is removed.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn remove(
        &self,
        owner: Owner<'_>,
        kind: Kind,
        name: &str,
        seen: &SeenObject,
    ) -> Result<bool, ApplyError> {
        self.applied.lock().remove(&key(owner, kind, name));
        if seen.owner.as_deref() != Some(owner.uid) {
            return Ok(false);
        }
        let mut parameters = DeleteParams::background();
        // Never another object that took the name.
        parameters.preconditions = Some(Preconditions {
            uid: seen.uid.clone(),
            resource_version: None,
        });
        match self.api(owner, kind).delete(name, &parameters).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
            Err(error) => Err(refused_or_failed(kind, name, error)),
        }
    }

    /// What the API server has of an object that is not watched.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn look(
        &self,
        owner: Owner<'_>,
        kind: Kind,
        name: &str,
    ) -> Result<Option<SeenObject>, ApplyError> {
        let found = self.api(owner, kind).get_metadata_opt(name).await;
        let found = found.map_err(|error| refused_or_failed(kind, name, error))?;
        Ok(found.map(|object| SeenObject::of(&object.metadata)))
    }

    /// Stops the pods of a Deployment of the owner and leaves everything else of it.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn stop(&self, owner: Owner<'_>, name: &str) -> Result<(), ApplyError> {
        let zero = serde_json::json!({"spec": {"replicas": 0}});
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let kind = Kind::Deployment;
        let patched = self
            .api(owner, kind)
            .patch(name, &parameters, &Patch::Merge(zero))
            .await;
        patched
            .map(|_| ())
            .map_err(|error| refused_or_failed(kind, name, error))
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, namespace: &str, is_of_it: impl Fn(&str) -> bool) {
        self.applied
            .lock()
            .retain(|(_, of, name), _| of != namespace || !is_of_it(name));
    }

    /// A watch may lag behind what was applied; what it shows counts when it is newer.
    fn is_current(&self, key: &Key, checksum: &str, seen: Option<&SeenObject>) -> bool {
        let mut applied = self.applied.lock();
        let Some(known) = applied.get_mut(key) else {
            return false;
        };
        known.shown |= seen.is_some();
        // What is not watched is nobody else's business.
        let unwatched = matches!(key.0, Kind::ServiceMonitor | Kind::Job);
        let not_yet_shown = !known.shown && known.at.elapsed() < WATCH_LAG;
        let unchanged = seen.map_or(unwatched || not_yet_shown, |seen| seen.version <= known.version);
        known.checksum == checksum && unchanged
    }

    fn api(&self, owner: Owner<'_>, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), owner.namespace, &kind.resource())
    }
}

fn of_owner(owner: Owner<'_>, child: &Child, seen: &SeenObject) -> Result<(), ApplyError> {
    if seen.owner.as_deref() == Some(owner.uid) {
        return Ok(());
    }
    Err(ApplyError::Foreign {
        kind: child.kind,
        name: child.name.clone(),
    })
}

fn key(owner: Owner<'_>, kind: Kind, name: &str) -> Key {
    (kind, owner.namespace.to_owned(), name.to_owned())
}

/// Whether the API server refuses something because its namespace is being deleted.
pub fn namespace_ends(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_forbidden()
        && causes
            .into_iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
}

/// What the API server understood and refused stays refused until something changes.
fn refused_or_failed(kind: Kind, name: &str, error: kube::Error) -> ApplyError {
    let name = name.to_owned();
    match error {
        kube::Error::Api(status) if namespace_ends(&status) => ApplyError::NamespaceEnds { kind, name },
        kube::Error::Api(status) if status.is_invalid() || status.is_forbidden() || status.code == 400 => {
            ApplyError::Refused {
                kind,
                name,
                message: status.message,
            }
        }
        source => ApplyError::Api {
            kind,
            name,
            source: Box::new(source),
        },
    }
}
