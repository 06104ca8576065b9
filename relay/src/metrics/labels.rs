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

const OTHER_LABEL: EventLabel = EventLabel(0);
const UNREADABLE_LABEL: EventLabel = EventLabel(1);

impl<H> EventLabels<H> {
    pub(super) fn new(make: impl Fn(&str) -> H + Send + Sync + 'static) -> Self {
        let handles = vec![Arc::new(make(OTHER)), Arc::new(make(UNREADABLE))];
        let labels = HashMap::from([(OTHER.into(), OTHER_LABEL), (UNREADABLE.into(), UNREADABLE_LABEL)]);
        Self {
            make: Box::new(make),
            inner: RwLock::new(Inner { labels, handles }),
        }
    }

    pub(super) fn label(&self, event_type: Option<&str>) -> EventLabel {
        let Some(event_type) = event_type else {
            return UNREADABLE_LABEL;
        };
        if let Some(label) = self.inner.read().labels.get(event_type) {
            return *label;
        }
        let mut inner = self.inner.write();
        if let Some(label) = inner.labels.get(event_type) {
            return *label;
        }
        // The two that are there from the start do not count.
        if inner.handles.len() >= MAX_EVENT_TYPES + 2 {
            return OTHER_LABEL;
        }
        let label = EventLabel(inner.handles.len() as u16);
        inner.handles.push(Arc::new((self.make)(event_type)));
        inner.labels.insert(event_type.into(), label);
        label
    }

    pub(super) fn handle(&self, label: EventLabel) -> Arc<H> {
        let inner = self.inner.read();
        let handle = inner.handles.get(usize::from(label.0));
        Arc::clone(handle.unwrap_or(&inner.handles[0]))
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
