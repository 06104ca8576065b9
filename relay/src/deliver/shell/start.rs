//! The first contact with the sink. Mistakes of TLS, SASL and names show here, before the first event.

use std::time::Duration;

use crds::relay_status::Health;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Delivery;
use crate::deliver::prepare::TopicKnowledge;
use crate::deliver::topics::Topics;
use crate::health::Part;
use crate::ports::{Broker, Clock, DeadLetters, DeliveryError, TopicInfo};

/// One question to the cluster: several connection attempts fit into it.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits between two attempts double from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Waits until the sink can be used, and returns what is known of the fixed topic; None if `stop` came first. Health
/// says why it waits.
pub(super) async fn wait_for_sink<B: Broker, D: DeadLetters, C: Clock>(
    delivery: &Delivery<B, D, C>,
    stop: &CancellationToken,
) -> Option<Topics> {
    let mut wait = FIRST_WAIT;
    let mut told = None;
    loop {
        let asked = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            asked = ask(delivery) => asked,
        };
        let now = delivery.clock.now();
        let error = match asked {
            Ok(info) => {
                info!("sink reached");
                delivery.board.healthy(Part::Sink, now);
                delivery
                    .metrics
                    .delivery
                    .component(Part::Sink.name(), Health::Healthy);
                let mut topics = Topics::default();
                if let (Some(topic), Some(info)) = (delivery.preparer.fixed_topic(), info) {
                    let knowledge = TopicKnowledge::Exists(info);
                    topics.learn(topic.into(), knowledge, delivery.clock.elapsed());
                }
                return Some(topics);
            }
            Err(error) => error.to_string(),
        };
        if told.as_ref() != Some(&error) {
            warn!(%error, "sink not reached; waiting");
            delivery.board.failed(Part::Sink, error.clone(), now);
            delivery
                .metrics
                .delivery
                .component(Part::Sink.name(), Health::Failed);
            delivery
                .control
                .update(|view| view.last_error = Some(error.clone()));
            told = Some(error);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(LAST_WAIT),
        }
    }
}

async fn ask<B: Broker, D, C>(delivery: &Delivery<B, D, C>) -> Result<Option<TopicInfo>, DeliveryError> {
    match delivery.preparer.fixed_topic() {
        Some(topic) => delivery.broker.topic(topic, ASK_TIMEOUT).await.map(Some),
        None => delivery.broker.check(None, ASK_TIMEOUT).await.map(|()| None),
    }
}
