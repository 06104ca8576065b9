//! Allows a user something. rdkafka does not wrap this part of librdkafka.
#![allow(
    unsafe_code,
    reason = "librdkafka's calls for access control, which rdkafka does not wrap"
)]

use std::ffi::CString;

use rdkafka::bindings as native;
use rdkafka::bindings::rd_kafka_AclOperation_t as Operation;

use crate::cluster::Cluster;

/// What users may be allowed to do with a topic.
#[derive(Debug, Clone, Copy)]
pub(crate) enum May {
    Describe,
    Write,
}

/// Returns once the broker has answered; whether it agreed, the test sees by what the user can do.
pub(crate) async fn allow(cluster: &Cluster, user: &str, may: May, topic: &str) {
    let admin = cluster.admin();
    let (user, topic) = (format!("User:{user}"), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let operation = match may {
            May::Describe => Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE,
            May::Write => Operation::RD_KAFKA_ACL_OPERATION_WRITE,
        };
        let (user, topic, host) = (
            CString::new(user).unwrap(),
            CString::new(topic).unwrap(),
            CString::new("*").unwrap(),
        );
        // SAFETY: the strings and the client outlive the calls; what is made here is destroyed here, once, after its
        // last use; a null error text of length 0 and null options are allowed.
        unsafe {
            let mut rule = native::rd_kafka_AclBinding_new(
                native::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                topic.as_ptr(),
                native::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
                user.as_ptr(),
                host.as_ptr(),
                operation,
                native::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                std::ptr::null_mut(),
                0,
            );
            assert!(!rule.is_null());
            let client = admin.inner().native_ptr();
            let answers = native::rd_kafka_queue_new(client);
            native::rd_kafka_CreateAcls(client, &raw mut rule, 1, std::ptr::null(), answers);
            let event = native::rd_kafka_queue_poll(answers, 30_000);
            assert!(!event.is_null(), "the broker answers");
            assert_eq!(
                native::rd_kafka_event_error(event),
                native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            );
            native::rd_kafka_event_destroy(event);
            native::rd_kafka_queue_destroy(answers);
            native::rd_kafka_AclBinding_destroy(rule);
        }
    })
    .await
    .unwrap();
}
