//! Values of the label `event_type`: bounded, because applications choose them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// Event types that get a label value of their own; all further ones share [`OTHER`].
pub(super) const MAX_EVENT_TYPES: usize = 100;

/// Label value of event types beyond [`MAX_EVENT_TYPES`].
const OTHER: &str = "other";

/// Label value of events whose type could not be read.
const UNREADABLE: &str = "unreadable";

/// An event type as a label: an index into tables of ready-made handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EventLabel(u16);

/// Per-label handles of type `H`, made when a label is first seen.
pub(super) struct EventLabels<H> {
    make: Box<dyn Fn(&str) -> H + Send + Sync>,
    inner: RwLock<Inner<H>>,
}

struct Inner<H> {
    labels: HashMap<Box<str>, EventLabel>,
    handles: Vec<Arc<H>>,
}

impl<H> EventLabels<H> {
    pub(super) fn new(make: impl Fn(&str) -> H + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            inner: RwLock::new(Inner {
                labels: HashMap::new(),
                handles: Vec::new(),
            }),
        }
    }

    pub(super) fn label(&self, event_type: Option<&str>) -> EventLabel {
        let event_type = event_type.unwrap_or(UNREADABLE);
        let known = self.inner.read().labels.get(event_type).copied();
        known.unwrap_or_else(|| self.add(event_type))
    }

    pub(super) fn handle(&self, label: EventLabel) -> Arc<H> {
        let handle = self.inner.read().handles.get(usize::from(label.0)).cloned();
        // Labels come from here, so there always is one; a default label does not, and counts as `other`.
        handle.unwrap_or_else(|| Arc::new((self.make)(OTHER)))
    }

    fn add(&self, event_type: &str) -> EventLabel {
        let mut inner = self.inner.write();
        // The two that are not an application's own do not count.
        let full = inner.handles.len() >= MAX_EVENT_TYPES && event_type != UNREADABLE;
        let name = if full { OTHER } else { event_type };
        if let Some(label) = inner.labels.get(name) {
            return *label;
        }
        let label = EventLabel(inner.handles.len() as u16);
        inner.handles.push(Arc::new((self.make)(name)));
        inner.labels.insert(name.into(), label);
        label
    }
}

impl<H> std::fmt::Debug for EventLabels<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLabels").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_types_have_their_own_label_and_the_rest_shares_one() {
        let labels = EventLabels::new(str::to_owned);
        let name = |event_type: Option<&str>| (*labels.handle(labels.label(event_type))).clone();
        for i in 0..MAX_EVENT_TYPES {
            let event_type = format!("type-{i}");
            assert_eq!(name(Some(&event_type)), event_type);
        }
        assert_eq!(name(Some("one more")), "other");
        assert_eq!(name(Some("type-0")), "type-0");
        assert_eq!(name(None), "unreadable");
        assert_eq!(labels.label(Some("type-7")), labels.label(Some("type-7")));
    }
}
