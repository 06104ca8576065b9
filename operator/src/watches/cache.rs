//! What a watch has shown of one kind, found by the resource that it belongs to: nobody looks through the objects of a
//! thousand resources for those of one.

use crate::names::RELAY;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Objects of one kind.
pub(super) struct Cache<K: Resource<DynamicType = ()> + 'static> {
    pub(super) store: Store<K>,
    pub(super) index: Arc<Index>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Cache<K> {
    /// One object.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name).within(namespace))
    }

    /// The objects whose label names this resource, by name.
    pub(super) fn of(&self, namespace: &str, relay: &str) -> Vec<Arc<K>> {
        let names = self.index.names(namespace, relay);
        let found = names.iter().filter_map(|name| self.get(namespace, name));
        found
            .filter(|object| label(object.as_ref()) == Some(relay))
            .collect()
    }
}

/// Names of objects, by namespace and name of the resource that their label tells.
#[derive(Default)]
pub(super) struct Index(Mutex<HashMap<(String, String), BTreeSet<String>>>);

impl Index {
    /// Follows an event that the store has taken up already.
    pub(super) fn follow<K>(&self, event: &Event<K>, store: &Store<K>)
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        match event {
            Event::Apply(object) => self.add(object),
            Event::Delete(object) => self.remove(object),
            // What a new list does not hold went while nobody watched.
            Event::InitDone => {
                self.0.lock().clear();
                store.state().iter().for_each(|object| self.add(object.as_ref()));
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }

    fn names(&self, namespace: &str, relay: &str) -> BTreeSet<String> {
        let key = (namespace.to_owned(), relay.to_owned());
        self.0.lock().get(&key).cloned().unwrap_or_default()
    }

    fn add<K: Resource>(&self, object: &K) {
        if let Some(key) = key(object) {
            self.0.lock().entry(key).or_default().insert(object.name_any());
        }
    }

    fn remove<K: Resource>(&self, object: &K) {
        let Some(key) = key(object) else { return };
        let mut names = self.0.lock();
        if let Some(of_relay) = names.get_mut(&key) {
            of_relay.remove(&object.name_any());
            if of_relay.is_empty() {
                names.remove(&key);
            }
        }
    }
}

fn label<K: Resource>(object: &K) -> Option<&str> {
    object.meta().labels.as_ref()?.get(RELAY).map(String::as_str)
}

fn key<K: Resource>(object: &K) -> Option<(String, String)> {
    Some((object.namespace()?, label(object)?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::reflector::store;

    fn object(name: &str, relay: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("shop".to_owned());
        object.metadata.labels = Some([(RELAY.to_owned(), relay.to_owned())].into());
        object
    }

    #[test]
    fn objects_are_found_by_their_resource_also_after_the_watch_was_interrupted() {
        let (store, mut writer) = store();
        let cache = Cache {
            store,
            index: Arc::default(),
        };
        let mut happens = |event: Event<ConfigMap>| {
            writer.apply_watcher_event(&event);
            cache.index.follow(&event, &cache.store);
        };
        let names = |relay: &str| -> Vec<_> {
            let found = cache.of("shop", relay);
            found.iter().map(|object| object.name_any()).collect()
        };
        happens(Event::Init);
        happens(Event::InitApply(object("a", "orders")));
        happens(Event::InitApply(object("b", "orders")));
        happens(Event::InitDone);
        happens(Event::Apply(object("c", "stock")));
        assert_eq!(
            (names("orders"), names("stock")),
            (vec!["a".into(), "b".into()], vec!["c".into()])
        );
        assert!(cache.of("other", "orders").is_empty());
        // Another label is another resource.
        happens(Event::Apply(object("b", "stock")));
        happens(Event::Delete(object("a", "orders")));
        assert_eq!(
            (names("orders"), names("stock")),
            (vec![], vec!["b".into(), "c".into()])
        );
        happens(Event::Init);
        happens(Event::InitApply(object("d", "orders")));
        assert_eq!(
            names("stock").len(),
            2,
            "a list that is not complete takes nothing away"
        );
        happens(Event::InitDone);
        assert_eq!((names("orders"), names("stock")), (vec!["d".to_owned()], vec![]));
    }
}
